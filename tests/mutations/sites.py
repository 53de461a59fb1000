"""Where a line of C++ could be wrong: the sites that tests/mutations/auto draws from, and files that hold many mutants.

No compiler takes part: the layout is clang-format's, so a binary operator stands between spaces, and the bracket of a
template argument does not. What does not compile after all, auto finds by the compiler's errors.
"""
import bisect
import re
from dataclasses import dataclass

KINDS = ["sign", "constant", "term dropped", "off by one", "arguments swapped", "operator swapped", "stream",
         "weighting", "condition negated", "left out"]

TOKEN = re.compile(r"""
    (?P<space>\s+|//[^\n]*|/\*.*?\*/|^[ ]*\#(?:\\\n|[^\n])*)
  | (?P<string>R"\((?:.|\n)*?\)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+')
  | (?P<number>(?:\d[\d']*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?[uUlLfF]*)
  | (?P<name>[A-Za-z_]\w*)
  | (?P<sign>\.\.\.|<<=|>>=|<=>|::|->|\+\+|--|&&|\|\||[-+*/%&|^<>=!]=|<<|[-+*/%&|^<>=!~?:;,.(){}\[\]])
""", re.VERBOSE | re.MULTILINE | re.DOTALL)

PRECEDENCE = {"*": 5, "/": 5, "%": 5, "+": 6, "-": 6, "<<": 7, "<=>": 8, "<": 9, "<=": 9, ">": 9, ">=": 9, "==": 10,
              "!=": 10, "&": 11, "^": 12, "|": 13, "&&": 14, "||": 15}
ASSIGNMENTS = {"=", "+=", "-=", "*=", "/=", "%=", "|=", "&="}
OTHER_OPERATORS = {"+": "-", "-": "+", "*": "/", "/": "*", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=",
                   "!=": "==", "&&": "||", "||": "&&", "+=": "-=", "-=": "+=", "*=": "/=", "/=": "*="}
OTHER_METHODS = {"add_": "sub_", "sub_": "add_", "add": "sub", "sub": "add", "mul_": "div_", "div_": "mul_",
                 "mul": "div", "div": "mul", "min": "max", "max": "min", "floor": "ceil", "ceil": "floor",
                 "front": "back", "back": "front", "log": "exp", "exp": "log"}
OTHER_WEIGHTS = {"sum": "mean", "mean": "sum", "samples": "clients", "clients": "samples", "samples_": "clients_",
                 "clients_": "samples_", "step_weight": "steps", "steps": "step_weight", "samples_seen": "steps",
                 '"uniform"': '"samples"', '"samples"': '"uniform"', '"loss"': '"samples"'}
# The objects that have both of two members.
OWNERS = {"samples": {"sum", "setup"}, "clients": {"sum", "setup"}, "step_weight": {"client"}, "steps": {"client"},
          "samples_seen": {"client", "all", "one"}}
SYMMETRIC = {"min", "max", "hypot", "equal", "swap"}
STREAM_WORDS = {"batches", "Rng", "streams", "streams_", "input_streams", "input_streams_", "seed", "purpose"}
KEYWORDS = {"return", "case", "throw", "else", "do", "new", "delete", "goto", "const", "auto", "using", "typedef",
            "static", "constexpr", "if", "for", "while", "switch", "break", "continue", "default", "template", "struct",
            "class", "operator", "co_return", "typename", "static_assert"}
STOPS = {";", ",", "?", ":", "..."} | ASSIGNMENTS


@dataclass(frozen=True)
class Token:
    kind: str
    text: str
    begin: int
    end: int
    spaced: bool  # after white space


@dataclass(frozen=True)
class Site:
    """One mutant: what stands in file[begin:end] and what would stand there. A statement is left out as a whole."""
    file: str
    begin: int
    end: int
    kind: str
    old: str
    new: str  # empty: left out
    number: int  # of the line
    line: str

    def words(self):
        return brief(self.old), brief(self.new) if self.new else "(left out)"

    def __str__(self):
        return "{}:{}: {} -> {}".format(self.file, self.number, *self.words())


def brief(text):
    text = " ".join(re.sub(r"//[^\n]*", " ", text).split())
    return text if len(text) <= 90 else text[:60] + " ... " + text[-25:]


class Source:
    """One file: its tokens, brackets and the parts that are code of functions."""

    def __init__(self, name, text):
        self.name, self.text = name, text
        self.lines = [0] + [m.end() for m in re.finditer("\n", text)]
        self.tokens = self.read()
        self.match, self.parent, self.template = {}, {}, set()
        self.pair()
        self.code, self.described = set(), set()  # indices of tokens
        self.find_code(0, len(self.tokens))
        self.leave_out()

    # ---- reading

    def read(self):
        tokens, at, spaced = [], 0, True
        while at < len(self.text):
            found = TOKEN.match(self.text, at)
            if not found:
                raise ValueError(f"{self.name}: cannot read {self.text[at:at + 20]!r}")
            text = found[0]
            if text in (">>", ">=", ">>=") and not spaced:
                text = ">"  # two closing brackets of templates
            if found.lastgroup == "space":
                spaced = True
            else:
                tokens.append(Token(found.lastgroup, text, at, at + len(text), spaced))
                spaced = False
            at += len(text)
        return tokens

    def is_template(self, i):
        before = self.tokens[i - 1]
        return (before.kind == "name" or before.text == "]") and (before.text == "template"
                                                                  or not self.tokens[i].spaced)

    def pair(self):
        stack = []
        for i, token in enumerate(self.tokens):
            self.parent[i] = stack[-1] if stack else -1
            if token.kind != "sign":
                continue
            if token.text in "([{" or token.text == "<" and i and self.is_template(i):
                stack.append(i)
            elif token.text in ")]}" or token.text == ">" and stack and self.tokens[stack[-1]].text == "<":
                begin = stack.pop()
                self.match[begin], self.match[i] = i, begin
                self.parent[i] = self.parent[begin]
                if token.text == ">":
                    self.template.update(range(begin, i + 1))

    def find_code(self, begin, end):
        """Marks the bodies of functions in what stands between namespaces' and classes' brackets."""
        item, i = begin, begin
        while i < end:
            text = self.tokens[i].text
            if text in "([" or (text == "<" and i in self.match):
                i = self.match[i]
            elif text == ";":
                item = i + 1
            elif text == "{":
                close = self.match[i]
                words = [self.tokens[j].text for j in range(item, i) if self.parent[j] == self.parent[i]]
                before = self.tokens[i - 1]
                lists = self.initialisers(item, i)
                if lists and before.kind == "name" and before.text not in ("const", "override", "noexcept"):
                    i = close + 1  # member{...}
                    continue
                if "enum" in words or "=" in words or "constexpr" in words or "(" not in words and \
                        not {"namespace", "class", "struct"} & set(words):
                    i = close + 1
                    continue
                if "(" in words and "namespace" not in words:
                    (self.described if "describe" in words else self.code).update(range(i + 1, close))
                    if lists:
                        self.code.update(range(lists, i))
                else:
                    self.find_code(i + 1, close)
                i, item = close, close + 1
            i += 1

    def initialisers(self, item, brace):
        """Where a constructor's list begins, or None."""
        seen = False
        for j in range(item, brace):
            if self.parent[j] != self.parent[brace]:
                continue
            seen |= self.tokens[j].text == "("
            if seen and self.tokens[j].text == ":":
                return j + 1
        return None

    def leave_out(self):
        """Words of messages, templates' arguments, and what the compiler must know are no sites."""
        quiet = set(self.template)
        for i, token in enumerate(self.tokens):
            if token.kind != "name":
                continue
            if token.text in ("static", "constexpr", "case", "using", "static_assert"):
                j = i
                while self.tokens[j].text not in (";", ":"):
                    j = self.match[j] if self.tokens[j].text in "([{" else j + 1
                    quiet.add(j)
                quiet.update(range(i, j + 1))
            called = i + 1 < len(self.tokens) and self.tokens[i + 1].text == "("
            if called and token.text == "FL_CHECK":
                first = self.arguments(i + 1)[0]
                quiet.update(range(first[1] + 1, self.match[i + 1]))
            if called and token.text in ("message", "Error"):
                quiet.update(range(i + 2, self.match[i + 1]))
        self.quiet = quiet

    # ---- walking

    def arguments(self, bracket):
        """Of a call: (first token, last token) of each."""
        result, first, j = [], bracket + 1, bracket + 1
        while j < self.match[bracket]:
            if self.tokens[j].text == ",":
                result.append((first, j - 1))
                first = j + 1
            elif j in self.match and self.match[j] > j:
                j = self.match[j]
            j += 1
        if first < self.match[bracket]:
            result.append((first, self.match[bracket] - 1))
        return result

    def binary(self, i):
        token = self.tokens[i]
        return (token.kind == "sign" and i not in self.template and token.spaced
                and i + 1 < len(self.tokens) and self.tokens[i + 1].spaced and token.text in PRECEDENCE)

    def begins(self, i, precedence):
        """The first token of the operand that ends before token i."""
        first, j = i, i - 1
        while j > self.parent[i]:
            token = self.tokens[j]
            if token.text in STOPS or token.text in KEYWORDS or token.text in ("{", "(", "["):
                break
            if self.binary(j) and PRECEDENCE[token.text] > precedence:
                break
            if token.text == "}" and (self.tokens[self.match[j] - 1].kind != "name"
                                      or self.tokens[self.match[j]].spaced):
                break
            if token.text == ")" and self.tokens[self.match[j] - 1].text in ("if", "for", "while", "switch"):
                break
            if j in self.match and self.match[j] < j:
                j = self.match[j]
            first = j
            j -= 1
        return first

    def ends(self, i, precedence):
        """The last token of the operand that begins after token i."""
        last, j = i, i + 1
        while j < len(self.tokens):
            token = self.tokens[j]
            if token.text in STOPS or token.text in ")]}":
                break
            if self.binary(j) and PRECEDENCE[token.text] >= precedence:
                break
            if j in self.match and self.match[j] > j:
                j = self.match[j]
            last = j
            j += 1
        return last

    def assigned(self, i):
        """The last token of what token i assigns: `x += a ? b : c` assigns all of it."""
        last, choices = self.ends(i, 16), 0
        while self.tokens[last + 1].text == "?" or self.tokens[last + 1].text == ":" and choices > 0:
            choices += 1 if self.tokens[last + 1].text == "?" else -1
            last = self.ends(last + 1, 16)
        return last

    def chain(self, i):
        """The first token of a.b->c::d(...) whose last name is token i."""
        while i > 0:
            before = self.tokens[i - 1].text
            if before not in (".", "->", "::"):
                return i
            j = i - 2
            if before == "::" and (self.tokens[j].kind != "name" and self.tokens[j].text != ">"):
                return i - 1
            if before == "." and (j < 0 or self.tokens[i - 1].spaced and self.tokens[j].text in "{,"):
                return i  # a designated initialiser
            while j in self.match and self.match[j] < j:
                j = self.match[j] - 1
                if self.tokens[j].text in KEYWORDS or self.tokens[j].kind != "name" and self.tokens[j].text not in ")]>":
                    return j + 1
            i = j
        return i

    def cut(self, first, last):
        return self.text[self.tokens[first].begin:self.tokens[last].end]

    # ---- sites

    def site(self, first, last, kind, new):
        begin, end = self.tokens[first].begin, self.tokens[last].end
        number = bisect.bisect_right(self.lines, begin)
        line = self.text[self.lines[number - 1]:].split("\n", 1)[0].strip()
        return Site(self.name, begin, end, kind, self.text[begin:end], new, number, line)

    def sites(self):
        found = []
        for i in range(len(self.tokens)):
            if i in self.code:
                found += self.sites_at(i)
            elif i in self.described and self.tokens[i].text in ('"uniform"', '"samples"'):
                found.append(self.site(i, i, "weighting", OTHER_WEIGHTS[self.tokens[i].text]))
        unique = {}
        for site in found:
            if site.old != site.new:
                unique.setdefault((site.begin, site.end, site.new), site)
        return list(unique.values())

    def statement(self, i):
        j = i
        while j > 0 and self.tokens[j - 1].text not in (";", "}") and not (
                self.tokens[j - 1].text == "{" and self.parent[j] == j - 1):
            j -= 1
        while self.tokens[i].text not in (";", "{"):
            i += 1
        return {self.tokens[k].text for k in range(j, i)}

    def sites_at(self, i):
        token, before, after = self.tokens[i], self.tokens[i - 1], self.tokens[i + 1]
        if token.kind == "string" and self.statement(i) & STREAM_WORDS and token.text[0] == '"' and \
                "own_rows" not in self.statement(i):
            return [self.site(i, i, "stream", new) for new in ('""', '"shuffle"', '"noise"')]
        if i in self.quiet:
            return []
        made = []

        def add(first, last, kind, new):
            made.append(self.site(first, last, kind, new))

        def cut(first, last):
            return self.cut(first, last)

        if token.kind == "number":
            for new in other_numbers(token.text):
                add(i, i, "constant", new)
        elif token.text in ("true", "false"):
            add(i, i, "constant", "false" if token.text == "true" else "true")
        elif token.kind == "string" and token.text in OTHER_WEIGHTS:
            add(i, i, "weighting", OTHER_WEIGHTS[token.text])
        elif self.binary(i):
            first, last = self.begins(i, PRECEDENCE[token.text]), self.ends(i, PRECEDENCE[token.text])
            if first == i or last == i:
                return made
            left, right = cut(first, i - 1), cut(i + 1, last)
            if token.text in OTHER_OPERATORS:
                kind = "off by one" if token.text in ("<", "<=", ">", ">=") else "operator swapped"
                if token.text in "+-":
                    kind = "sign"
                add(first, last, kind, f"{left} {OTHER_OPERATORS[token.text]} {right}")
            if token.text in ("<", "<=", ">", ">="):
                for sign in "+-":
                    add(first, last, "off by one", f"{left} {token.text} ({right}) {sign} 1")
            if token.text in ("+", "-", "*", "/", "%", "&&", "||"):
                add(first, last, "term dropped", left)
            if token.text in ("+", "*", "&&", "||"):
                add(first, last, "term dropped", right)
        elif token.text in ASSIGNMENTS and token.text in OTHER_OPERATORS:
            first, last = self.begins(i, 16), self.assigned(i)
            if first < i < last:
                kind = "sign" if token.text in ("+=", "-=") else "operator swapped"
                add(first, last, kind, f"{cut(first, i - 1)} {OTHER_OPERATORS[token.text]} {cut(i + 1, last)}")
                if token.text in ("+=", "-="):
                    add(first, last, "term dropped", f"{cut(first, i - 1)} = {cut(i + 1, last)}")
        elif token.text == "=" and before.text in ("pull", "shift", "scale", "displacement", "lr", "plus", "decay") and \
                self.tokens[i - 2].text == "." and self.tokens[i - 3].text in ("{", ",") and after.text != "{":
            last = self.ends(i, 16)
            if last > i:
                add(i + 1, last, "sign", f"-({cut(i + 1, last)})")
        elif token.text in ("-", "!") and not after.spaced and before.text not in (")", "]") and before.kind != "number" \
                and (before.kind != "name" or before.text in KEYWORDS):
            last = self.ends(i, 4)
            if last > i:
                add(i, last, "sign" if token.text == "-" else "condition negated", cut(i + 1, last))
        elif token.text == "?":
            first = self.begins(i, 15)
            if first < i:
                add(first, i - 1, "condition negated", f"!({cut(first, i - 1)})")
        elif token.text == "if" and after.text == "(":
            begin, close = i + 2, self.match[i + 1]
            for j in range(begin, close):
                if self.tokens[j].text == ";" and self.parent[j] == i + 1:
                    begin = j + 1
            if self.tokens[begin].text != "const" and "=" not in [self.tokens[j].text for j in range(begin, close)]:
                add(begin, close - 1, "condition negated", f"!({cut(begin, close - 1)})")
        elif token.text == "[" and i in self.match and before.kind == "name" and not token.spaced:
            if self.match[i] > i + 1 and self.tokens[i + 1].kind != "string":
                inside = cut(i + 1, self.match[i] - 1)
                add(i + 1, self.match[i] - 1, "off by one", f"{inside} + 1")
        elif token.kind == "name" and token.text in OTHER_WEIGHTS and before.text in (".", "->") and \
                not before.spaced and self.tokens[i - 2].text in OWNERS.get(token.text, {self.tokens[i - 2].text}):
            first = self.chain(i)
            last = self.match[i + 1] if after.text == "(" else i
            add(first, last, "weighting", cut(first, i)[:-len(token.text)] + OTHER_WEIGHTS[token.text] +
                (cut(i + 1, last) if last > i else ""))
        elif token.kind == "name" and token.text in ("samples_", "clients_") and after.text != "(":
            add(i, i, "weighting", OTHER_WEIGHTS[token.text])
        elif token.text == "static_cast" and after.text == "<" and self.cut(i + 2, self.match[i + 1] - 1) == "double":
            last = self.match[self.match[i + 1] + 1]
            if re.search(r"size|samples|count|clients|sum|weight", self.cut(i, last)):
                add(i, last, "weighting", "1.0")

        # Calls: the name, or the > of its template arguments, stands before the bracket.
        if token.text == "(" and i in self.match and not token.spaced:
            name = self.match[i - 1] - 1 if before.text == ">" and i - 1 in self.match else i - 1
            word = self.tokens[name]
            if word.kind == "name" and word.text not in KEYWORDS and word.text not in ("FL_CHECK", "message", "Error"):
                first, last = self.chain(name), self.match[i]
                arguments = self.arguments(i)
                for (a, b), (c, d) in zip(arguments, arguments[1:]) if word.text not in SYMMETRIC else ():
                    if any(self.tokens[k].kind == "string" or self.tokens[k].text in "[{" or
                           re.match(r"torch::k[A-Z]|torch::dtype", cut(k, last)) for k in (a, c)):
                        continue  # of different types
                    add(first, last, "arguments swapped", cut(first, i) + self.text[token.end:self.tokens[a].begin] +
                        cut(c, d) + ", " + cut(a, b) + self.text[self.tokens[d].end:self.tokens[last].end])
                head = self.tokens[name - 1].text
                if word.text in OTHER_METHODS and head in (".", "::", "->"):
                    kind = "sign" if word.text[:3] in ("add", "sub") else "operator swapped"
                    add(first, last, kind, self.text[self.tokens[first].begin:word.begin] + OTHER_METHODS[word.text] +
                        self.text[word.end:self.tokens[last].end])
                if word.text in ("add_", "sub_", "add", "sub") and len(arguments) == 2:
                    a, b = arguments[1]
                    add(a, b, "sign", f"-({cut(a, b)})")

        # Statements: calls and assignments.
        if token.kind == "name" and token.text not in KEYWORDS and self.parent[i] >= 0 and \
                self.tokens[self.parent[i]].text == "{" and self.starts_statement(i):
            end = self.after_chain(i)
            if end is not None:
                j = end
                while self.tokens[j].text != ";":
                    j = self.match[j] if j in self.match and self.match[j] > j else j + 1
                add(i, j, "left out", "")
        return made

    def starts_statement(self, i):
        before = self.tokens[i - 1].text
        if before in (";", "{", "}", "else"):
            return True
        return before == ")" and self.tokens[self.match[i - 1] - 1].text in ("if", "for", "while")

    def after_chain(self, i):
        """Where a.b(c).d[e] ends: a token that makes it a statement to be left out, or None."""
        called = False
        while True:
            token = self.tokens[i]
            if token.kind != "name":
                return None
            i += 1
            while i in self.match and self.match[i] > i and self.tokens[i].text in "([<":
                called = self.tokens[i].text == "("
                i = self.match[i] + 1
            text = self.tokens[i].text
            if text in (".", "->", "::"):
                i += 1
            elif text == ";" and called or text in ASSIGNMENTS:
                return i
            else:
                return None


def other_numbers(text):
    if "'" in text or re.search("[uUlLfF]$", text):
        return []
    if re.fullmatch(r"\d+", text):
        n = int(text)
        return {0: ["1"], 1: ["0", "2"]}.get(n, [str(n + 1), str(n - 1)])
    value = float(text)
    if value == 0:
        return ["1.0"]
    if value < 1e-6:
        return [repr(value * 1e6)]
    return [repr(value * 2), repr(value / 2)]


def overlapping(a, b):
    """Whether two sites of a file cannot stand in each other."""
    return a.begin < b.begin < a.end < b.end or b.begin < a.begin < b.end < a.end


def with_mutants(text, numbered):
    """(a file with all these mutants, which of them each of its lines belongs to). numbered: [(number, site)]."""
    groups = {}
    for number, site in numbered:
        groups.setdefault((site.begin, site.end), []).append((number, site))
    order = sorted(groups, key=lambda g: (g[0], -g[1]))
    pieces = []

    def emit(begin, end, inside):
        at, k = begin, 0
        while k < len(inside):
            first, last = inside[k]
            nested = [g for g in inside[k + 1:] if g[0] < last]
            pieces.append(text[at:first])
            leaves = [(n, s) for n, s in groups[first, last] if not s.new]
            if leaves:  # a whole statement
                pieces.append("\n{ if (!fl_sim_mutant(%d)) {\n" % leaves[0][0])
                emit(first, last, nested)
                pieces.append("\n} }\n")
            else:
                pieces.append("\n(")
                for number, site in groups[first, last]:
                    whole = f"static_cast<bool>({site.old})" if site.kind == "condition negated" and \
                        site.new.startswith("!(") else None
                    pieces.append(f"\x01{number}\x02fl_sim_mutant({number}) ? (\n{site.new}\n) :\x03\n")
                if len(groups[first, last]) == 1 and whole and not nested:
                    pieces.append(whole)
                else:
                    pieces.append("(" if not whole else "static_cast<bool>(")
                    emit(first, last, nested)
                    pieces.append("\n)")
                pieces.append(")\n")
            at, k = last, k + 1 + len(nested)
        pieces.append(text[at:end])

    emit(0, len(text), order)
    lines, owners, current = [], {}, None
    for number, line in enumerate("".join(pieces).split("\n"), 1):
        if "\x01" in line:
            current = int(line[line.index("\x01") + 1:line.index("\x02")])
            line = re.sub("\x01.*?\x02", "", line)
        left_out = re.search(r"^\{ if \(!fl_sim_mutant\((\d+)\)\) \{$", line)
        if current is not None:
            owners[number] = current
        elif left_out:
            owners[number] = int(left_out[1])
        if "\x03" in line:
            line, current = line.replace("\x03", ""), None
        lines.append(line)
    return "\n".join(lines), owners
