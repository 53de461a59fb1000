"""The tables in bench/README.md that benchmarks write, between <!-- NAME:begin --> and <!-- NAME:end -->."""
import os
import re

README = os.path.join(os.path.dirname(os.path.abspath(__file__)), "README.md")


def replace_table(name, table):
    """Puts a Markdown table in the place of the first one between the marks; the text around it stays."""
    with open(README) as file:
        text = file.read()
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if begin not in text:
        text += f"\n{begin}\n\n{table}\n\n{end}\n"
    head, rest = text.split(begin, 1)
    body, tail = rest.split(end, 1)
    body, found = re.subn(r"(^\|.*\n)+", lambda _: table + "\n", body, count=1, flags=re.M)
    if not found:
        body = f"\n\n{table}\n\n" + body.lstrip()
    with open(README, "w") as file:
        file.write(head + begin + body + end + tail)
