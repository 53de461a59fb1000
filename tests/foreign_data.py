"""Files as other tools write them: read for what they are, or refused with what they are. Nothing is left out, guessed or
scaled without a word."""
import json
import os
import shutil
import struct
import unittest
import zlib

import h5py
import numpy as np

from whole_program import Case, checksum, columns

BASE = {"model": "logistic", "rounds": 2, "clients": 2, "local.batch-size": 10, "local.lr": 0.05}


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels, extra=b""):
    """A PNG file of [height, width] greys or [height, width, 2, 3 or 4] grey with alpha, colours, colours with alpha, in 8
    or 16 bits; extra: chunks before the pixels."""
    pixels = np.asarray(pixels)
    depth = 8 * pixels.dtype.itemsize
    colour = {2: 0, 3: {2: 4, 3: 2, 4: 6}.get(pixels.shape[-1])}[pixels.ndim]
    rows = b"".join(b"\0" + row.astype(pixels.dtype.newbyteorder(">")).tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], depth, colour, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", zlib.compress(rows)) +
            chunk(b"IEND", b""))


def indexed_png(numbers, depth, palette=None, alpha=b"", interlaced=False):
    """A PNG file of [height, width] numbers of 1, 2, 4 or 8 bits: greys, or colours of a palette [n, 3] with how opaque
    they are. interlaced: in Adam7's seven passes."""
    numbers = np.asarray(numbers)
    passes = ([(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
              if interlaced else [(0, 0, 1, 1)])
    data = b""
    for y, x, down, right in passes:
        for row in numbers[y::down, x::right]:
            bits = "".join(f"{number:0{depth}b}" for number in row)
            bits += "0" * (-len(bits) % 8)
            data += (b"\0" + bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8))) if len(row) else b""
    head = struct.pack(">IIBBBBB", numbers.shape[1], numbers.shape[0], depth, 0 if palette is None else 3, 0, 0,
                       int(interlaced))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) +
            (b"" if palette is None else chunk(b"PLTE", np.asarray(palette, np.uint8).tobytes())) +
            (chunk(b"tRNS", alpha) if alpha else b"") + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


def jpeg(values, adobe=None, before_end=b""):
    """A JPEG file (ITU-T T.81, baseline) of 8 x 8 equal pixels with these components. adobe: the transform that Adobe's
    marker names. before_end: bytes between the pixels and the end's marker."""
    def segment(marker, data):
        return bytes([0xff, marker]) + struct.pack(">H", len(data) + 2) + data
    # Of the DC table the 12 categories have codes of 4 bits, of the AC table only the end of a block has one, 0.
    tables = (segment(0xc4, b"\x00" + bytes([0, 0, 0, 12] + [0] * 12) + bytes(range(12))) +
              segment(0xc4, b"\x10" + bytes([1] + [0] * 15) + b"\x00"))
    bits = ""
    for value in values:
        level = 8 * (value - 128)  # the mean times 8, quantised by 1
        size = abs(level).bit_length()
        bits += f"{size:04b}" + (f"{level if level > 0 else level + (1 << size) - 1:0{size}b}" if size else "") + "0"
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[i:i + 8], 2) for i in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    count = len(values)
    ids = range(1, count + 1)
    return (b"\xff\xd8" + (b"" if adobe is None else segment(0xee, b"Adobe\0\x64\0\0\0\0" + bytes([adobe]))) +
            segment(0xdb, b"\0" + b"\1" * 64) +
            segment(0xc0, struct.pack(">BHHB", 8, 8, 8, count) + b"".join(bytes([i, 0x11, 0]) for i in ids)) + tables +
            segment(0xda, bytes([count]) + b"".join(bytes([i, 0]) for i in ids) + b"\0\x3f\0") + data + before_end +
            b"\xff\xd9")


def webp(width, height, colour):
    """A WebP file (RFC 9649, lossless) of equal pixels, red, green, blue and alpha: each code has one symbol, so that pixels
    take no bits."""
    red, green, blue, alpha = colour
    bits = [(width - 1, 14), (height - 1, 14), (alpha != 255, 1), (0, 3), (0, 1), (0, 1), (0, 1)]
    for symbol in (green, red, blue, alpha, 0):
        bits += [(1, 1), (0, 1), (1, 1), (symbol, 8)]
    number = at = 0
    for value, width_of in bits:
        number |= int(value) << at
        at += width_of
    data = b"\x2f" + number.to_bytes((at + 7) // 8, "little")
    data = b"VP8L" + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data


def bmp(pixels, bits=24, palette=None, header=40, masks=None, top_down=False, compression=None):
    """A BMP file (Windows' BITMAPFILEHEADER and an info header of this size; 12: OS/2's) of [height, width] numbers of a
    palette [n, 3], or of [height, width, 3] colours, 4 with masks for red, green, blue and alpha."""
    pixels = np.asarray(pixels, np.uint8)
    height, width = pixels.shape[:2]
    rows = []
    for row in pixels if top_down else pixels[::-1]:
        if palette is not None:
            each = "".join(f"{value:0{bits}b}" for value in row)
            each += "0" * (-len(each) % 8)
            data = bytes(int(each[i:i + 8], 2) for i in range(0, len(each), 8))
        else:
            spare = np.full((width, 1), 77, np.uint8)  # what nobody should look at
            data = np.hstack([row[:, 2::-1], row[:, 3:] if row.shape[1] == 4 else spare])[:, :bits // 8].tobytes()
        rows.append(data + b"\1" * (-len(data) % 4))
    colours = b"" if palette is None else b"".join(
        bytes(colour[::-1]) + b"\x99" * (header != 12) for colour in np.asarray(palette, np.uint8))
    between = struct.pack("<4I", *masks)[:16 if header >= 56 else 12] if masks else b""
    place = 14 + header + (len(between) if header == 40 else 0) + len(colours)
    if header == 12:
        info = struct.pack("<IHHHH", 12, width, height, 1, bits)
    else:
        form = compression if compression is not None else 3 if masks else 0
        info = struct.pack("<IiiHHIIiiII", header, width, -height if top_down else height, 1, bits, form, 0, 2835, 2835,
                           0 if palette is None or len(palette) == 1 << bits else len(palette), 0)
        info += between if header == 40 else (between + bytes(header))[:header - 40]
    data = info + colours + b"".join(rows)
    return b"BM" + struct.pack("<IHHI", 14 + len(data), 0, 0, place) + data


class ForeignData(Case):
    def write(self, name, data):
        path = self.path(name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data if isinstance(data, bytes) else data.encode())
        return path

    def options(self, dataset, **changes):
        values = {**BASE, "dataset": dataset, "output": self.path("x.h5"), "overwrite": "true",
                  **{key.replace("_", "-").replace("--", "."): value for key, value in changes.items()}}
        return [word for key, value in values.items() if value is not None for word in ("--" + key, value)]

    def train(self, dataset, ranks=0, **changes):
        return self.succeed(*self.options(dataset, **changes), ranks=ranks)

    def refuse(self, words, dataset, ranks=0, **changes):
        return self.fail_with(words, *self.options(dataset, **changes), ranks=ranks)

    def warnings(self, run):
        return [line for line in run.err.splitlines() if line.startswith("fl_sim: warning: ")]

    def assert_warns(self, run, *words):
        """Once, in a single line."""
        lines = [line for line in self.warnings(run) if all(word in line for word in words)]
        self.assertEqual(len(lines), 1, f"{words}: {run}")

    def model(self):
        with h5py.File(self.path("x.h5")) as file:
            return {name: file["model"][name][()] for name in file["model"]}


class Images(ForeignData):
    def image_folder(self, name, files):
        """{class/file: bytes} in train/ and, the same, in test/."""
        self.results = {}
        for part in ("train", "test"):
            for file, data in files.items():
                self.write(f"{name}/{part}/{file}", data)
        return "images:" + self.path(name)

    def result(self, dataset, **changes):
        """Its model's checksum; trained once until a folder is written."""
        key = dataset, tuple(sorted(changes.items()))
        if key not in self.results:
            self.train(dataset, **changes)
            self.results[key] = checksum(self.path("x.h5"))
        return self.results[key]

    def same_result(self, left, right, **changes):
        self.assertEqual(self.result(left, **changes), self.result(right, **changes))

    def greys(self):
        random = np.random.default_rng(3)
        return {f"{c}/{i}": random.integers(0, 256, (6, 5)).astype(np.uint8) for c in "ab" for i in range(4)}

    def test_sixteen_bits_are_eight_bits(self):
        for channels in (0, 2, 3, 4):
            random = np.random.default_rng(channels)
            shape = (6, 5, channels) if channels else (6, 5)
            images = {f"{c}/{i}.png": random.integers(0, 256, shape).astype(np.uint8) for c in "ab" for i in range(4)}
            if channels in (2, 4):
                for image in images.values():
                    image[..., -1] = 255  # opaque
            narrow = self.image_folder(f"narrow{channels}", {name: png(image) for name, image in images.items()})
            wide = self.image_folder(f"wide{channels}", {name: png(image.astype(np.uint16) * 257)
                                                   for name, image in images.items()})
            with self.subTest(channels=channels):
                self.same_result(narrow, wide, images__colour="rgb" if channels >= 3 else "grey")

    def test_numbers_are_taken_as_they_are(self):
        """Gamma, colour profiles (even the wrong kind), texts and times do not change a pixel, or the result."""
        plain = self.image_folder("plain", {name + ".png": png(image) for name, image in self.greys().items()})
        extras = {
            "gamma": chunk(b"gAMA", struct.pack(">I", 100000)),
            "mac": chunk(b"gAMA", struct.pack(">I", 55556)),
            "profile": chunk(b"iCCP", b"of colours, not grey\0\0" + zlib.compress(b"\0" * 200)),
            "sRGB twice": 2 * chunk(b"sRGB", b"\0"),
            "bits": chunk(b"sBIT", b"\x04"),
            "text": chunk(b"tEXt", b"Comment\0of another tool") + chunk(b"eXIf", b"no TIFF"),
        }
        same = self.image_folder("same", {  # each of them in some file
            file + ".png": png(image, list(extras.values())[i % len(extras)])
            for i, (file, image) in enumerate(self.greys().items())})
        self.same_result(plain, same, images__colour="grey")

    def test_small_numbers_and_palettes(self):
        random = np.random.default_rng(11)
        names = [f"{c}/{i}.png" for c in "ab" for i in range(3)]
        palette = random.integers(0, 256, (16, 3)).astype(np.uint8)
        alpha = bytes([255, 0, 255] + [255] * 13)
        seen = palette * (np.frombuffer(alpha, np.uint8)[:, None] // 255)
        for depth in (1, 2, 4, 8):
            images = {name: random.integers(0, 1 << min(depth, 4), (11, 13)) for name in names}
            greys = {name: png((image * (255 // ((1 << depth) - 1))).astype(np.uint8)) for name, image in images.items()}
            colours = {name: png(seen[image]) for name, image in images.items()}
            used = palette[:1 << depth]
            with self.subTest(depth=depth):  # every second one in seven passes
                self.same_result(self.image_folder(f"greys{depth}", greys), self.image_folder(f"few{depth}", {
                    name: indexed_png(image, depth, interlaced=i % 2 > 0)
                    for i, (name, image) in enumerate(images.items())}), images__colour="grey")
                self.same_result(self.image_folder(f"colours{depth}", colours), self.image_folder(f"table{depth}", {
                    name: indexed_png(image, depth, used, alpha[:1 << depth], i % 2 > 0)
                    for i, (name, image) in enumerate(images.items())}))

    def test_files_are_what_their_bytes_say(self):
        """Not what they are called, where they lie or what stands behind their end."""
        plain = self.greys()
        folder = self.image_folder("plain", {name + ".png": png(image) for name, image in plain.items()})
        moving = chunk(b"acTL", struct.pack(">II", 2, 0)) + chunk(b"fcTL", bytes(26))
        behind = chunk(b"fdAT", bytes(4) + zlib.compress(bytes(99)))
        def film(image):
            file = png(image, moving)
            return file[:-12] + behind + file[-12:]
        forms = [(".jpeg", png),  # by its name
                 (".PNG", png), (".png", lambda image: png(image) + b"left over"), (".png", film)]
        mixed = {}
        for i, (name, image) in enumerate(plain.items()):
            ending, form = forms[i % len(forms)]
            mixed[name + ending] = form(image)
        self.same_result(folder, self.image_folder("mixed", mixed), images__colour="grey")
        linked = self.path("linked")
        for part in ("train", "test"):
            for c in "ab":
                os.makedirs(f"{linked}/{part}/{c}")
                for i in range(4):
                    os.symlink(self.path(f"plain/{part}/{c}/{i}.png"), f"{linked}/{part}/{c}/{i}.png")
        self.same_result(folder, "images:" + linked, images__colour="grey")
        os.remove(self.path("plain/train/b/2.png"))  # one link leads nowhere
        run = self.start(*self.options("images:" + linked, images__colour="grey")).wait()
        self.assertIn(f"{linked}/train/b/2.png", run.err, str(run))

    def test_folders_that_are_laid_out_otherwise(self):
        files = {name + ".png": png(image) for name, image in self.greys().items()}
        folder = self.path("flat")
        for name, data in files.items():
            self.write("flat/" + name.replace("/", "_"), data)
        self.refuse([folder, "holds no folders", "a folder a class"], "images:" + folder)
        for name, data in files.items():
            self.write(f"halves/train/{name}", data)
            self.write(f"halves/val/{name}", data)
        self.refuse(["halves: holds train/, but no test/"], "images:" + self.path("halves"))
        sizes = {**files, "b/wide.png": png(np.zeros((6, 9), np.uint8))}
        self.refuse(["b/wide.png: is 6 x 9, while", "images.size = 6x5"], self.image_folder("sizes", sizes),
                    images__colour="grey")
        self.train(self.image_folder("sizes", sizes), images__colour="grey", images__size="6x5")
        more = self.image_folder("more", files)
        self.write("more/test/c/1.png", files["a/1.png"])
        self.refuse(["more/test/c: is a class that", "more/train does not have"], more, images__colour="grey")

    def test_a_damaged_file_stays_refused(self):
        good = png(np.zeros((4, 4), np.uint8), chunk(b"tEXt", b"Comment\0hello"))
        at = good.index(b"hello")
        broken = good[:at] + b"jello" + good[at + 5:]  # a checksum that is wrong, if of a text only
        self.refuse(["b/1.png", "is a damaged PNG file"],
                    self.image_folder("d", {"a/1.png": good, "b/1.png": broken}))

    def test_grey_is_that_of_jpeg(self):
        """0.299 red + 0.587 green + 0.114 blue, as other readers have it."""
        random = np.random.default_rng(8)
        colours, plain = {}, {}
        for name in ("a/1", "a/2", "b/1", "b/2"):
            image = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
            colours[name + ".png"] = png(image)
            plain[name + ".png"] = png((image @ [19595, 38470, 7471] + 32768 >> 16).astype(np.uint8))
        self.same_result(self.image_folder("plain", plain), self.image_folder("colours", colours), images__colour="grey")

    def test_transparent_pixels_stand_on_black(self):
        random = np.random.default_rng(5)
        seen, plain = {}, {}
        for name in ("a/1", "a/2", "b/1", "b/2"):
            image = random.integers(0, 256, (4, 4, 4)).astype(np.uint8)
            image[..., 3] = 255 * random.integers(0, 2, (4, 4))
            seen[name + ".png"] = png(image)
            plain[name + ".png"] = png(image[..., :3] * (image[..., 3:] // 255))
        self.same_result(self.image_folder("plain", plain), self.image_folder("alpha", seen))

    def test_stray_bytes_of_a_jpeg(self):
        """Pixels that are whole count; who would warn of the file is named once."""
        files = {f"{c}/{i}.jpg": jpeg([40 + 30 * i + 90 * (c == "b")]) for c in "ab" for i in range(3)}
        plain = self.image_folder("plain", files)
        stray = self.image_folder("stray", {**files, "a/1.jpg": jpeg([70], before_end=b"left over by a tool")})
        self.same_result(plain, stray, images__colour="grey")
        run = self.train(stray, images__colour="grey")
        self.assert_warns(run, "2 files were read", "stray/train/a/1.jpg", "extraneous bytes")  # the second is in test/
        endless = self.image_folder("endless", {**files, "a/1.jpg": jpeg([70])[:-2]})
        self.same_result(plain, endless, images__colour="grey")
        self.assert_warns(self.train(endless, images__colour="grey"), "endless/train/a/1.jpg", "Premature end")
        cut = jpeg([200, 10, 90])
        cut = cut[:-4] + cut[-2:]  # pixels are missing
        self.refuse(["is a damaged JPEG file"], self.image_folder("cut", {**files, "b/2.jpg": cut}))

    def test_inks(self):
        """CMYK, inverted behind Adobe's marker and straight without: red is (1 - cyan)(1 - black)."""
        inks = [(0, 0, 0, 0), (255, 0, 0, 0), (10, 200, 90, 0), (255, 255, 255, 51), (30, 60, 90, 120)]
        def light(ink):
            return [round((255 - c) * (255 - ink[3]) / 255) for c in ink[:3]]
        straight, inverted, plain = {}, {}, {}
        for i, ink in enumerate(inks):
            for c in "ab":
                straight[f"{c}/{i}.jpg"] = jpeg(ink)
                inverted[f"{c}/{i}.jpg"] = jpeg([255 - v for v in ink], adobe=0)
                plain[f"{c}/{i}.jpg"] = png(np.full((8, 8, 3), light(ink), np.uint8))
        self.same_result(self.image_folder("plain", plain), self.image_folder("straight", straight))
        self.same_result(self.image_folder("plain", plain), self.image_folder("inverted", inverted))
        # Adobe's other form (transform 2) is luminance and chrominance of the inverted inks' inverse; grey has none.
        pairs = [(200, 255), (20, 255), (90, 100), (130, 7)]
        names = ("a/1", "a/2", "b/1", "b/2")
        self.same_result(
            self.image_folder("greys", {f"{name}.png": png(np.full((8, 8, 3), round((255 - y) * k / 255), np.uint8))
                                        for name, (y, k) in zip(names, pairs)}),
            self.image_folder("ycck", {f"{name}.jpg": jpeg([y, 128, 128, k], adobe=2)
                                       for name, (y, k) in zip(names, pairs)}))

    def test_webp(self):
        """Where libwebp was there to build with, as scripts/install sees to; elsewhere it is told."""
        colours = {"a/1": (10, 20, 30, 255), "a/2": (200, 100, 0, 255), "b/1": (1, 2, 255, 0), "b/2": (7, 250, 9, 255)}
        files = {name + ".webp": webp(4, 4, colour) for name, colour in colours.items()}
        plain = {name + ".png": png(np.full((4, 4, 4), colour, np.uint8)) for name, colour in colours.items()}
        told = self.succeed("--explain", "images").out
        if ".webp" in told:
            self.same_result(self.image_folder("plain", plain), self.image_folder("webp", files))
            self.refuse(["is a damaged WebP file"], self.image_folder("cut", {**files, "a/3.webp": files["a/1.webp"][:24]}))
        else:
            self.assert_warns(self.train(self.image_folder("both", {**plain, **files})), "8 of 16 files are left out",
                              ".webp")

    def test_bmp(self):
        """Each form that programs write, beside the same pixels as PNG."""
        random = np.random.default_rng(9)
        def compare(what, shape, *forms, **changes):
            """Three images of each class in each of these forms (how PNG sees it, how it is written)."""
            with self.subTest(what):
                plain, other = {}, {}
                for f, (seen, written) in enumerate(forms):
                    for name in (f"{c}/{f}_{i}" for c in "ab" for i in range(3)):
                        image = random.integers(0, 256, shape).astype(np.uint8)
                        plain[name + ".png"], other[name + ".bmp"] = png(seen(image)), written(image)
                self.same_result(self.image_folder("png", plain), self.image_folder("bmp", other), **changes)
                shutil.rmtree(self.path("png"))
                shutil.rmtree(self.path("bmp"))
        same = (lambda image: image)
        for width in (4, 5, 6, 7):  # rows fill up to four bytes
            compare(f"24 bits, {width} wide", (3, width, 3), (same, bmp))
        masks = (0xff0000, 0xff00, 0xff, 0)
        compare("32 bits, top row first, OS/2, masks behind the header and in it", (3, 5, 3),
                (same, lambda image: bmp(image, 32)),  # 8 of which mean nothing
                (same, lambda image: bmp(image, top_down=True)), (same, lambda image: bmp(image, header=12)),
                (same, lambda image: bmp(image, 32, masks=masks)),
                (same, lambda image: bmp(image, 32, header=108, masks=masks)))
        compare("grey of colours", (3, 5, 3), (same, bmp), images__colour="grey")
        opacity = np.array([255, 0, 255, 255, 0], np.uint8)
        def seen(image):
            image[..., 3] = opacity
            return image
        compare("opacity", (3, 5, 4), (lambda image: seen(image)[..., :3] * (opacity[:, None] // 255),
                                       lambda image: bmp(seen(image), 32, header=124, masks=(*masks[:3], 0xff000000))))
        palettes = []
        for bits, colours, header in ((8, 256, 40), (8, 200, 40), (8, 256, 12), (4, 16, 40), (4, 3, 40), (1, 2, 40)):
            palette = random.integers(0, 256, (colours, 3)).astype(np.uint8)
            palettes.append((
                lambda image, n=colours, p=palette: p[image.astype(int) % n],
                lambda image, n=colours, p=palette, b=bits, h=header: bmp(image.astype(int) % n, b, p, h)))
        compare("palettes", (3, 11), *palettes)
        good = bmp(np.zeros((4, 4, 3)))
        few = bmp(np.full((4, 4), 9), 8, np.zeros((5, 3)))
        for what, data, words in (
                ("cut", good[:-1], "do not fit its 101 bytes"), ("header", good[:20], "its header is cut"),
                ("palette", few, "colour 9 of a palette of 5"), ("16 bits", bmp(np.zeros((4, 4, 3)), 16, masks=masks),
                                                                 "BMP file of 16 bits a pixel and form 3"),
                ("runs", bmp(np.zeros((4, 4)), 8, np.zeros((5, 3)), compression=1), "8 bits a pixel and form 1"),
                ("huge", good[:18] + b"\xff\xff\xff\x7f" * 2 + good[26:], "do not fit its 102 bytes"),
                ("nothing", good[:18] + bytes(8) + good[26:], "claims to be 0 x 0 pixels"),
                ("a name", good[:14] + b"\7" + good[15:], "header claims 7 bytes")):
            with self.subTest(what):
                self.refuse(["a/1.bmp", words, *(["PNG"] if "form" in words else [])],
                            self.image_folder("bad", {"a/1.bmp": data, "a/2.bmp": good, "b/1.bmp": good}))

    def test_others_files_are_told(self):
        files = {name + ".png": png(image) for name, image in self.greys().items()}
        files |= {"a/x.tif": b"II*\0" + b"\0" * 60, "b/y.tif": b"II*\0" + b"\0" * 60, "a/deep/1.png": files["a/1.png"],
                  "b/LIESMICH": b"text"}
        run = self.train(self.image_folder("mixed", files), images__colour="grey")
        self.assert_warns(run, "8 of 24 files are left out", "4 .tif", "2 in folders of a class", "2 without an ending",
                          "mixed/train/a/deep/1.png")
        self.assertIn("8 files left out", run.out)
        self.refuse(["hold no .png, .jpg", "2 .gif"],
                    self.image_folder("none", {"a/x.gif": b"GIF89a", "b/y.gif": b"GIF89a"}))

    def test_what_systems_add_is_no_data(self):
        plain = {name + ".png": png(image) for name, image in self.greys().items()}
        added = {"a/._1.png": b"\0\5\x16\7", "a/.DS_Store": b"Bud1", "__MACOSX/a/._1.png": b"\0\5\x16\7",
                 "a/Thumbs.db": b"\xd0\xcf\x11\xe0", ".ipynb_checkpoints/1.png": b"", "b/.ipynb_checkpoints/1.png": b""}
        self.same_result(self.image_folder("plain", plain), self.image_folder("added", {**plain, **added}),
                         images__colour="grey")
        run = self.train("images:" + self.path("added"), images__colour="grey")
        self.assertEqual(self.warnings(run), [], str(run))

    def test_all_that_cannot_be_read_is_named_at_once(self):
        files = {name + ".png": png(image) for name, image in self.greys().items()}
        files |= {"a/cut.png": files["a/1.png"][:60], "b/web.png": b"RIFF\x20\0\0\0WEBPVP8 ", "b/page.jpg": b"<html>",
                  "b/moving.png": b"GIF89a", "a/none.png": b""}
        self.refuse(["10 of 26 files cannot be read", "a/cut.png: is a damaged PNG", "b/web.png", "WebP file",
                     "it is a text, such as a web page", "it is a GIF file", "it is empty"],
                    self.image_folder("bad", files), images__colour="grey")

    def test_classes_without_samples_and_folders_beside(self):
        files = {name + ".png": png(image) for name, image in self.greys().items()}
        folder = self.image_folder("gaps", files)
        os.makedirs(self.path("gaps/train/c"))
        os.makedirs(self.path("gaps/val/a"))
        run = self.train(folder, images__colour="grey")
        self.assert_warns(run, "class c has no sample to train with")
        self.assert_warns(run, "gaps/val: is not read")


class Tables(ForeignData):
    def table(self, name, rows, header="a,b,y"):
        return self.write(name, "\n".join([header] * bool(header) + [",".join(map(str, row)) for row in rows]) + "\n")

    def rows(self, count, label, seed=0):
        random = np.random.default_rng(seed)
        return [[*np.round(random.normal(size=2), 3), label(i)] for i in range(count)]

    def test_labels_that_only_the_test_file_has(self):
        train = self.table("train.csv", self.rows(20, lambda i: ["<=50K", ">50K"][i % 2]))
        dotted = self.table("dotted.csv", self.rows(6, lambda i: ["<=50K.", ">50K."][i % 2], 1))
        other = self.table("other.csv", self.rows(6, lambda i: "abcdefgh"[i], 1))
        self.refuse([dotted, "labels '<=50K.', '>50K.'", "which " + train + " does not", "end in a dot", "sed"],
                    "csv:" + train, csv__label="y", csv__test=dotted)
        self.refuse([other, "labels 'a', 'b', 'c', 'd', 'e' and 1 more", "coded alike"],
                    "csv:" + train, csv__label="y", csv__test=other)
        commented = self.write("commented.csv", "|1x3 Cross validator\n1,2,<=50K\n")
        self.refuse(["line 1: 1 cells", "a comment"], "csv:" + self.table("headless.csv", self.rows(9, lambda i: i % 2), ""),
                    csv__label=-1, csv__header="false", csv__test=commented)
        # A number to be predicted may be new.
        train = self.table("train.csv", self.rows(20, lambda i: i / 7))
        test = self.table("test.csv", self.rows(5, lambda i: i / 3))
        self.train("csv:" + train, csv__label="y", csv__test=test, csv__regression="true")

    def test_texts_that_are_none(self):
        text = "a;b;y\n" + "".join(f"{i};{2 * i};{i % 2}\n" for i in range(10))
        plain = self.write("plain.csv", text)
        changes = {"csv__label": "y", "csv__separator": "semicolon"}
        self.train("csv:" + plain, **changes)
        expected = checksum(self.path("x.h5"))
        self.train("csv:" + self.write("marked.csv", b"\xef\xbb\xbf" + text.encode()), **changes)
        self.assertEqual(checksum(self.path("x.h5")), expected)
        for name, data, words in (
                ("wide.csv", text.encode("utf-16"), ["is UTF-16", "UTF-8"]),
                ("big.csv", b"\xfe\xff" + text.encode("utf-16-be"), ["is UTF-16"]),
                ("unmarked.csv", text.encode("utf-16-le"), ["bytes of 0", "UTF-16"]),
                ("mac.csv", text.replace("\n", "\r").encode(), ["end in CR alone", "tr"]),
                ("book.xlsx", b"PK\3\4\x14\0\6\0", ["is a zip archive, as an .xlsx", "CSV"]),
                ("book.xls", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["is an .xls of an old Excel"]),
                ("frame.parquet", b"PAR1\x15\4\x15", ["is a Parquet file"]),
                ("frame.csv.xz", b"\xfd7zXZ\0", ["compressed", "xz -d"]),
                ("pointer.csv", b"version https://git-lfs.github.com/spec/v1\n", ["pointer of Git LFS"])):
            with self.subTest(name):
                path = self.write(name, data)
                self.refuse([path, *words], "csv:" + path, **changes)
                self.refuse([path, *words], "libsvm:" + path)

    def test_decimal_commas(self):
        path = self.write("t.csv", "a;y\n" + "81,2;0\n69,7;1\n" * 5)
        self.refuse(["'81,2'", "decimal point, not a comma"], "csv:" + path, csv__label="y", csv__separator="semicolon")

    def test_labels_that_look_like_numbers_to_predict(self):
        path = self.table("t.csv", self.rows(60, lambda i: round(i / 7 - 3, 5)))
        run = self.train("csv:" + path, csv__label="y")
        self.assert_warns(run, "csv.label y has 60 different values in 60 rows", "csv.regression")
        run = self.train("csv:" + path, csv__label="y", csv__regression="true")
        self.assertEqual(self.warnings(run), [], str(run))
        run = self.train("csv:" + self.table("digits.csv", self.rows(60, lambda i: i % 10)), csv__label="y")
        self.assertEqual(self.warnings(run), [], str(run))
        run = self.train("csv:" + self.table("names.csv", self.rows(20, lambda i: f"name {i}")), csv__label="y")
        self.assert_warns(run, "csv.label y has 20 different values in 20 rows", "column of labels?")
        run = self.train("csv:" + self.table("one.csv", self.rows(20, lambda i: "same")), csv__label="y")
        self.assert_warns(run, "all labels are the same")

    def test_clients_of_one_row_and_of_one_class(self):
        """Both train; the first cannot keep a row to test with, the second has no curve."""
        rows = [[*row, who] for row, who in zip(self.rows(41, lambda i: i % 2), ["big"] * 30 + ["one"] + ["same"] * 10)]
        for row in rows[31:]:
            row[2] = 1
        path = self.table("hospitals.csv", rows, "a,b,y,who")
        job = {"csv__label": "y", "csv__client": "who", "partitioner": "natural", "clients": None, "csv__test": path}
        self.train("csv:" + path, **job)
        table = columns(self.path("x.h5"), "clients")
        self.assertEqual(list(table["samples"]), 2 * [30, 1, 10])
        self.assertTrue(np.isfinite(table["loss"]).all())
        run = self.train("csv:" + path, **job, ranks=3, partition__test_fraction=0.3, evaluate_clients=1, metrics="auc")
        self.assert_warns(run, "auc", "1 of 2 clients")
        table = columns(self.path("x.h5"), "evaluations")
        self.assertEqual(list(table["client"]), 2 * [0, 2])
        self.assertEqual(list(np.isnan(table["auc"])), 2 * [False, True])

    def test_cells_as_programs_write_them(self):
        rows = self.rows(20, lambda i: i % 2)
        plain = self.table("plain.csv", rows)
        self.train("csv:" + plain, csv__label="y")
        expected = checksum(self.path("x.h5"))
        quoted = "\r\n".join(['"a","b","y"'] + [",".join(f'"{v}"' for v in row) for row in rows]) + "\r\n\r\n"
        blanks = "\n".join(["a , b ,y"] + [" , ".join(map(str, row)) for row in rows])
        exponents = "\n".join(["a,b,y"] + [f"{a:e},{b:+.6f},{y}.0" for a, b, y in rows])
        for name, text in (("quoted", quoted), ("blanks", blanks), ("exponents", exponents)):
            with self.subTest(name):
                self.train("csv:" + self.write(name + ".csv", text), csv__label="y")
                self.assertEqual(checksum(self.path("x.h5")), expected)
        for name, text, words in (
                ("no header", "\n".join(",".join(map(str, row)) for row in rows), ["csv.header = false"]),
                ("another separator", "\n".join(["a;b;y"] + [";".join(map(str, row)) for row in rows]), ["no column 'y'"]),
                ("two of one name", "\n".join(["y,a,y"] + [",".join(map(str, row)) for row in rows]),
                 ["two columns are called 'y'", "csv.label as a number"]),
                ("a thousand", "a,b,y\n" + '"1,234",2,0\n' + "1,2,1\n" * 9, ["line 2", "'1,234'"]),
                ("a gap", "a,b,y\n1,,0\n" + "1,2,1\n" * 9, ["line 2", "csv.missing"]),
                ("a word for a gap", "a,b,y\nNA,1,0\n" + "1,2,1\n" * 9, ["line 2", "'NA'", "csv.missing"]),
                ("no number", "a,b,y\nnan,1,0\n" + "1,2,1\n" * 9, ["line 2", "'nan'"]),
                ("too short", "a,b,y\n1,2\n" + "1,2,1\n" * 9, ["line 2: 2 cells"]),
                ("a quote without end", 'a,b,y\n1,"2,0\n' + "1,2,1\n" * 9, ["quote"])):
            with self.subTest(name):
                path = self.write("t.csv", text)
                self.refuse([path, *words], "csv:" + path, csv__label="y")

    def test_rows_left_out_are_counted(self):
        rows = self.rows(30, lambda i: i % 2)
        rows[3][0] = rows[4][1] = rows[20][2] = "?"
        run = self.train("csv:" + self.table("t.csv", rows), csv__label="y", csv__missing="?")
        self.assertIn("3 rows without a value left out", run.out)

    def test_pixel_tables_are_images(self):
        """The same pixels from a table and from an array."""
        random = np.random.default_rng(4)
        pixels, labels = random.integers(0, 256, (40, 64)), np.arange(40) % 10
        names = ["label"] + [f"pixel{i}" for i in range(64)]
        train = self.table("train.csv", np.column_stack([labels, pixels])[:30], ",".join(names))
        test = self.table("test.csv", np.column_stack([labels, pixels])[30:], ",".join(names))
        images = pixels.reshape(40, 1, 8, 8).astype(np.float32)
        np.savez(self.path("t.npz"), x=images[:30], y=labels[:30], x_test=images[30:], y_test=labels[30:])
        self.train("csv:" + train, csv__label="label", csv__test=test, csv__shape="1x8x8", csv__scale=0.00392157,
                   model="cnn-bn")
        expected = checksum(self.path("x.h5"))
        self.train("npz:" + self.path("t.npz"), npz__scale=0.00392157, model="cnn-bn")
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.refuse(["model cnn-bn needs images", "samples are [64]", "csv.shape makes images"], "csv:" + train,
                    csv__label="label", model="cnn-bn")
        run = self.start(*self.options("csv:" + train, csv__label="label", model="2nn", local__lr=5)).wait()
        self.assert_warns(run, "inputs as large as 255", "csv.scale or csv.standardise")
        for shape, words in (("1x8x9", ["csv.shape is '1x8x9'", "64 inputs a row"]), ("8x8x", ["csv.shape is '8x8x'"]),
                             ("1x4x8", ["makes 32", "64"]), ("0x8", ["csv.shape is '0x8'"])):
            self.refuse(words, "csv:" + train, csv__label="label", csv__shape=shape)

    def test_libsvm_labels(self):
        rows = [[1 + i % 3, i] for i in range(20)]
        def lines(labels):
            return "".join(f"{label} 1:{a} 2:{b / 10}\n" for label, (a, b) in zip(labels, rows))
        self.train("libsvm:" + self.write("zero", lines([i % 2 for i in range(20)])))
        expected = checksum(self.path("x.h5"))
        run = self.train("libsvm:" + self.write("even", lines([2 + 2 * (i % 2) for i in range(20)])))
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.assert_warns(run, "labels 2, 4 become classes 0 to 1")
        numbers = [i / 8 for i in range(20)]
        path = self.write("numbers", lines(numbers))
        self.refuse([path, "line 2: the label is '0.125'", "libsvm.regression"], "libsvm:" + path)
        run = self.train("libsvm:" + path, libsvm__regression="true")
        self.assertIn("a number to predict (20 different ones)", run.out)
        table = self.table("numbers.csv", [[a, b / 10, y] for (a, b), y in zip(rows, numbers)])
        expected = checksum(self.path("x.h5"))
        self.train("csv:" + table, csv__label="y", csv__regression="true")
        self.assertEqual(checksum(self.path("x.h5")), expected)


class Arrays(ForeignData):
    def save(self, name="t.npz", **arrays):
        np.savez(self.path(name), **arrays)
        return "npz:" + self.path(name)

    def numbers(self, *shape, dtype=np.float32, seed=0):
        random = np.random.default_rng(seed)
        if np.dtype(dtype).kind == "f":
            return random.normal(size=shape).astype(dtype)
        return random.integers(0, 256, shape).astype(dtype)

    def test_targets_in_columns(self):
        x = self.numbers(20, 6)
        labels = np.arange(20) % 4
        self.refuse(["y is 20 x 4 of 0 and 1", "one-hot", "numpy.argmax(y, 1)"], self.save(x=x, y=np.eye(4)[labels]))
        several = np.eye(4)[labels] + np.eye(4)[(labels + 1) % 4]
        self.refuse(["y is 20 x 4 of 0 and 1", "not a single 1", "several labels a sample"], self.save(x=x, y=several))
        self.train(self.save(x=x, y=labels[:, None]))

    def test_arrays_in_other_forms(self):
        """The same numbers in other types, orders and archives; labels that are none."""
        x, y = self.numbers(30, 6), np.arange(30) % 3
        self.train(self.save(x=x, y=y))
        expected = checksum(self.path("x.h5"))
        for name, arrays in (("wide", {"x": x.astype(np.float64), "y": y.astype(np.uint8)}),
                             ("big end first", {"x": x.astype(">f4"), "y": y.astype(">i4")}),
                             ("column by column", {"x": np.asfortranarray(x), "y": y.astype(np.float32)}),
                             ("every second", {"x": np.repeat(x, 2, 0)[::2], "y": np.repeat(y, 2)[::2]})):
            with self.subTest(name):
                self.train(self.save(**arrays))
                self.assertEqual(checksum(self.path("x.h5")), expected)
        np.savez_compressed(self.path("small.npz"), x=x, y=y)
        os.makedirs(self.path("folder"))
        np.save(self.path("folder/x.npy"), x)
        np.save(self.path("folder/y.npy"), y)
        for place in ("small.npz", "folder"):
            self.train("npz:" + self.path(place))
            self.assertEqual(checksum(self.path("x.h5")), expected)
        names = np.array(["cat", "dog", "cow"])
        for name, arrays, words in (
                ("texts", {"x": x, "y": names[y]}, ["y: is of type '<U3'", "numpy.unique"]),
                ("objects", {"x": x, "y": names[y].astype(object)}, ["y", "pickle"]),
                ("complex", {"x": x.astype(np.complex64), "y": y}, ["x: is of type '<c8'"]),
                ("from one on", {"x": x, "y": y + 1}, ["label 0 does not occur", "numpy.unique"]),
                ("below", {"x": x, "y": y - 1}, ["label -1 occurs", "numpy.unique"]),
                ("halves", {"x": x, "y": y / 2}, ["other than whole numbers", "npz.regression"]),
                ("not as many", {"x": x, "y": y[:-1]}, ["y is 29, while x is 30 x 6"]),
                ("a gap", {"x": np.where(np.arange(30)[:, None] == 3, np.nan, x), "y": y}, ["x holds NaN"]),
                ("of one number", {"x": x[:, 0], "y": y}, ["x[:, None]"])):
            with self.subTest(name):
                self.refuse([self.path("t.npz"), *words], self.save(**arrays))

    def test_others_names(self):
        images, labels = self.numbers(30, 8, 8, dtype=np.uint8), np.arange(30) % 3
        split = {"x": images[:24, None], "y": labels[:24], "x_test": images[24:, None], "y_test": labels[24:]}
        self.train(self.save(**split))
        expected = checksum(self.path("x.h5"))
        run = self.train(self.save(x_train=images[:24], y_train=labels[:24], x_test=images[24:], y_test=labels[24:]))
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.assert_warns(run, "x_train", "images of one channel")
        run = self.train(self.save(train_images=images[:24], train_labels=labels[:24, None], test_images=images[24:],
                                   test_labels=labels[24:, None], val_images=images[:2], val_labels=labels[:2]))
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.assert_warns(run, "not read: val_images, val_labels")
        self.refuse(["has no array x ", "there are features, targets"], self.save(features=images, targets=labels))
        self.refuse(["has no array y ", "there are x"], self.save(x=images))

    def test_channels_last(self):
        images, labels = self.numbers(30, 3, 8, 8, dtype=np.uint8), np.arange(30) % 3
        self.train(self.save(x=images, y=labels))
        expected = checksum(self.path("x.h5"))
        last = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        run = self.train(self.save(x=last, y=labels))
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.assert_warns(run, "30 x 8 x 8 x 3", "channels last")
        run = self.train(self.save(x=last, y=labels), npz__images="channels-last")
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.assertEqual(self.warnings(run), [], str(run))
        self.train(self.save(x=last, y=labels), npz__images="channels-first")
        self.assertNotEqual(checksum(self.path("x.h5")), expected)
        # Recordings of 22 electrodes are no images.
        recording = self.numbers(30, 22, 50, 1)
        run = self.train(self.save(x=recording, y=labels))
        self.assertEqual(self.warnings(run), [], str(run))
        self.refuse(["npz.images is no-channel", "30 x 22 x 50 x 1"], self.save(x=recording, y=labels),
                    npz__images="no-channel")

    def test_large_numbers(self):
        pixels, labels = self.numbers(40, 64, dtype=np.uint8).astype(np.float32), np.arange(40) % 4
        run = self.start(*self.options(self.save(x=pixels, y=labels), model="2nn", local__lr=5)).wait()
        self.assertEqual(run.code, 3, str(run))  # no client ever counted
        self.assert_warns(run, "inputs as large as 255", "npz.scale", "0.00392157 is 1/255")
        run = self.train(self.save(x=pixels, y=labels), model="2nn", npz__scale=1 / 255)
        self.assertEqual(self.warnings(run), [], str(run))
        run = self.train(self.save(x=np.arange(40)[:, None] + (1 << 24), y=labels), npz__scale=1e-8)
        self.assert_warns(run, "beyond 16777216", "ids")
        run = self.train(self.save(x=self.numbers(40, 2), y=np.arange(40)))
        self.assert_warns(run, "y has 40 different values in 40 rows", "npz.regression")


class Leaf(ForeignData):
    def leaf(self, name, users, text=None):
        data = {"users": list(users), "num_samples": [len(user["y"]) for user in users.values()], "user_data": users}
        for part in ("train", "test"):
            self.write(f"{name}/{part}/all_data.json", text or json.dumps(data))
        return "leaf:" + self.path(name)

    def test_celeba(self):
        users = {"7": {"x": ["1.jpg", "2.jpg"], "y": [0, 1]}, "12": {"x": ["3.jpg"], "y": [1]}}
        changes = {"partitioner": "natural", "clients": None, "leaf__colour": "grey"}
        folder = self.leaf("celeba", users)
        self.refuse(["names of image files, such as '1.jpg'", "CelebA", "raw/img_align_celeba", "--leaf.images"], folder,
                    **changes)
        values = {"1.jpg": 40, "2.jpg": 200, "3.jpg": 250}
        for name, value in values.items():
            self.write(f"celeba/raw/img_align_celeba/{name}", jpeg([value]))
        self.train(folder, **changes)
        expected = checksum(self.path("x.h5"))
        x = np.array([250, 40, 200], np.uint8).repeat(64).reshape(3, 1, 8, 8)  # users in the order of their names
        y = np.array([1, 0, 1])
        np.savez(self.path("t.npz"), x=x, y=y, x_test=x, y_test=y, client=[0, 1, 1])
        self.train("npz:" + self.path("t.npz"), partitioner="natural", clients=None)
        self.assertEqual(checksum(self.path("x.h5")), expected)
        os.remove(self.path("celeba/raw/img_align_celeba/2.jpg"))
        self.refuse(["2 of 6 files cannot be read", "2.jpg"], folder, **changes)
        for name, value in values.items():
            self.write(f"elsewhere/{name}", jpeg([value]))
        self.train(folder, **changes, leaf__images=self.path("elsewhere"))
        self.assertEqual(checksum(self.path("x.h5")), expected)
        self.refuse(["leaf.images", "/nowhere"], folder, **changes, leaf__images="/nowhere")
        self.refuse(["x 1 is 'a picture'", "names of images"],
                    self.leaf("mixed", {"7": {"x": ["1.jpg", "a picture"], "y": [0, 1]}}), **changes)

    def test_what_is_not_read(self):
        changes = {"partitioner": "natural", "clients": None}
        tweet = ["1467810672", "Mon Apr 06", "NO_QUERY", "someone", "what a day", "training"]
        self.refuse(["user 'someone', x 0", "Sent140", "words are not read"],
                    self.leaf("sent140", {"someone": {"x": [tweet], "y": [0]}}), **changes)
        for word, value in (("NaN", float("nan")), ("Infinity", float("inf")), ("-Infinity", -float("inf"))):
            self.refuse(["user 'u'", f"holds {word} near byte", "no number of JSON"],
                        self.leaf("gaps", {"u": {"x": [[0.5, value]], "y": [0]}}), **changes)


class Metrics(ForeignData):
    def save(self, test_labels, **more):
        random = np.random.default_rng(6)
        labels = np.arange(60) % 3
        x = random.normal(size=(60, 4)).astype(np.float32) + labels[:, None] * 0.7
        test = np.asarray(test_labels)
        np.savez(self.path("t.npz"), x=x, y=labels, x_test=random.normal(size=(len(test), 4)).astype(np.float32) +
                 test[:, None] * 0.7, y_test=test, **more)
        return "npz:" + self.path("t.npz")

    def test_a_curve_of_one_class(self):
        run = self.train(self.save([1] * 8), metrics="auc,f1")
        self.assert_warns(run, "auc", "one class", "all 8 samples have label 1")
        rounds = columns(self.path("x.h5"), "rounds")
        self.assertTrue(np.isnan(rounds["test_auc"]).all())
        self.assertEqual(rounds["test_auc"].shape, (2,))
        self.assertTrue(np.isfinite(rounds["test_f1"]).all())

    def test_confusion_and_f1(self):
        """All of them follow from the matrix, whose diagonal is the accuracy."""
        labels = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
        for ranks in (0, 3):
            run = self.train(self.save(labels), ranks, metrics="f1,class-f1,class-accuracy,balanced-accuracy,confusion",
                             rounds=5, local__epochs=3)
            rounds = columns(self.path("x.h5"), "rounds")
            with h5py.File(self.path("x.h5")) as file:
                matrix = file["confusion"][()]
                self.assertEqual(file["confusion"].attrs["round"], 5)
            self.assertEqual(list(matrix.sum(1)), [4, 3, 5])
            self.assertAlmostEqual(np.trace(matrix) / 12, rounds["test_accuracy"][-1])
            hits = np.diag(matrix)
            with np.errstate(invalid="ignore"):
                f1 = 2 * hits / (matrix.sum(0) + matrix.sum(1))
            np.testing.assert_allclose(rounds["test_class_f1"][-1], f1)
            self.assertAlmostEqual(rounds["test_f1"][-1], np.nanmean(f1))
            np.testing.assert_allclose(rounds["test_class_accuracy"][-1], hits / matrix.sum(1))
            self.assertIn(f"F1 {rounds['test_f1'][-1]:.4f}", run.out)
        self.refuse(["metrics is confusion", "predicts a number"], self.save(labels), metrics="confusion",
                    objective="squared")

    def test_by_client(self):
        run = self.train(self.save([0, 1, 2], client=np.repeat([0, 1], 30)), partitioner="natural", clients=None,
                         metrics="auc,f1,balanced-accuracy", evaluate_clients=1, partition__test_fraction=0.3)
        rows = columns(self.path("x.h5"), "evaluations")
        for name in ("auc", "f1", "balanced_accuracy"):
            self.assertTrue(((rows[name] >= 0) & (rows[name] <= 1)).all(), rows[name])
            self.assertIn("personal_" + name, rows)
        self.assertEqual(self.warnings(run), [], str(run))
        # Nine samples of three classes, three of each: their recalls' mean is the accuracy.
        np.testing.assert_allclose(rows["balanced_accuracy"], rows["accuracy"])
        alone = np.load(self.path("t.npz"))
        client = np.where(alone["y"] == 0, 0, 1)  # the first one has a single class
        run = self.train(self.save([0, 1, 2], client=client), partitioner="natural", clients=None, metrics="auc",
                         evaluate_clients=1, partition__test_fraction=0.3)
        self.assert_warns(run, "auc", "1 of 2 clients")
        rows = columns(self.path("x.h5"), "evaluations")
        self.assertTrue((np.isnan(rows["auc"]) == (rows["client"] == 0)).all())


if __name__ == "__main__":
    unittest.main()
