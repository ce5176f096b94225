"""Files as a stranger with bad intentions would make them; each would leave the file HARM if its code ran."""

import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import torch

HARM = "HARM"
HUGE = 2**40  # elements: terabytes


class Payload:
    """Unpickled, it runs a command."""

    def __reduce__(self):
        return os.system, (f"touch {HARM}",)


def png(width, height, rows=b""):
    """A PNG by hand: its header says one thing, whatever pixels there are."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


# Checkpoints


def checkpoint_bytes(content, **how):
    """What torch.save writes of something."""
    file = io.BytesIO()
    torch.save(content, file, **how)
    return file.getvalue()


GOOD = {"state_dict": {"weight": torch.arange(1000.0)}, "settings": {}}


def rewritten(change, compression=zipfile.ZIP_STORED, more=()):
    """A good checkpoint's zip, its pickle passed through ``change``, and more entries."""
    before, file = zipfile.ZipFile(io.BytesIO(checkpoint_bytes(GOOD))), io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as after:
        for entry in before.infolist():
            raw = before.read(entry)
            after.writestr(entry.filename, change(raw) if entry.filename.endswith("data.pkl") else raw)
        for name, raw in more:
            after.writestr(name, raw)
    return file.getvalue()


class _Lie(pickle.Pickler):
    """Writes a tensor as torch.save does, with other numbers."""

    def persistent_id(self, thing):
        return (
            ("storage", torch.FloatStorage, "0", "cpu", thing[1])
            if isinstance(thing, tuple) and thing[:1] == ("lie",)
            else None
        )


class _Tensor:
    def __init__(self, elements, size, stride):
        self.arguments = (("lie", elements), 0, size, stride, False, {})

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.arguments


class _Call:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def lying(content):
    """A checkpoint's zip whose pickle is this."""
    file = io.BytesIO()
    _Lie(file, protocol=2).dump({"state_dict": {"weight": content}})
    return rewritten(lambda raw: file.getvalue())


def overlapping():
    """A zip of which many entries are the same bytes."""
    raw = bytearray(rewritten(lambda raw: raw))
    end = raw.rindex(b"PK\5\6")
    start, size = struct.unpack("<I", raw[end + 16 : end + 20])[0], struct.unpack("<I", raw[end + 12 : end + 16])[0]
    directory, many = bytes(raw[start : start + size]), 2000
    count = struct.unpack("<H", raw[end + 10 : end + 12])[0] * many
    tail = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size * many, start, 0)
    return bytes(raw[:start]) + directory * many + tail


CHECKPOINTS = {
    "payload": lambda: checkpoint_bytes({"state_dict": {}, "settings": {"x": Payload()}}),
    "payload_legacy": lambda: checkpoint_bytes(
        {"state_dict": {}, "x": Payload()}, _use_new_zipfile_serialization=False
    ),
    "payload_plain_pickle": lambda: pickle.dumps(Payload()),
    "legacy": lambda: checkpoint_bytes(GOOD, _use_new_zipfile_serialization=False),
    "empty": lambda: b"",
    "html": lambda: b"<html>404</html>",
    "not_a_dict": lambda: checkpoint_bytes([1, 2]),
    "zip_bomb": lambda: rewritten(lambda raw: raw, zipfile.ZIP_DEFLATED, [("archive/data/9", bytes(1 << 26))]),
    "compressed": lambda: rewritten(lambda raw: raw, zipfile.ZIP_DEFLATED),
    "overlapping_entries": overlapping,
    "path_traversal": lambda: rewritten(lambda raw: raw, more=[("archive/../../evil", b"x")]),
    "absolute_path": lambda: rewritten(lambda raw: raw, more=[("/tmp/evil", b"x")]),
    "two_folders": lambda: rewritten(lambda raw: raw, more=[("other/data.pkl", b"x")]),
    "tensor_beyond_its_entry": lambda: lying(_Tensor(2000, (2000,), (1,))),
    "tensor_of_terabytes": lambda: lying(_Tensor(HUGE, (HUGE,), (1,))),
    "view_of_terabytes": lambda: lying(_Tensor(1, (HUGE,), (0,))),
    "negative_size": lambda: lying(_Tensor(4, (-4,), (1,))),
    "bytearray_of_terabytes": lambda: lying(_Call(bytearray, HUGE)),
    "torch_tensor_of_terabytes": lambda: lying(_Call(torch.Tensor, HUGE)),
    "memo_of_terabytes": lambda: rewritten(lambda raw: b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b"."),
    "bytes_of_terabytes": lambda: rewritten(lambda raw: b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b"."),
    **{
        f"cut_at_{share}_percent": lambda share=share: (lambda raw: raw[: len(raw) * share // 100])(
            checkpoint_bytes(GOOD)
        )
        for share in (1, 10, 50, 90, 99)
    },
}


def flipped(raw, places):
    """Some bits of a file turned over."""
    changed = bytearray(raw)
    for place in places:
        changed[place // 8] ^= 1 << place % 8
    return bytes(changed)


# npz


def npy(shape="(4, 8, 8, 3)", dtype="'|u1'", body=bytes(768), version=b"\1\0", length="<H"):
    """An npy by hand."""
    header = f"{{'descr': {dtype}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY" + version + struct.pack(length, len(header)) + header + body


def npz(images=None, compression=zipfile.ZIP_STORED, **more):
    """An npz whose training images are this npy; the rest is right."""
    labels = npy("(4,)", "'<i8'", np.arange(4).tobytes())
    arrays = {"x_train": images or npy(), "y_train": labels, "x_test": npy(), "y_test": labels, **more}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, raw in arrays.items():
            archive.writestr(f"{name}.npy", raw)
    return file.getvalue()


def object_npz():
    """Arrays of objects, which numpy pickles."""
    file = io.BytesIO()
    harmful = np.empty(4, object)
    harmful[:] = [Payload()] * 4
    np.savez(file, x_train=harmful, y_train=harmful, x_test=harmful, y_test=harmful)
    return file.getvalue()


def declared_npz(size):
    """An npz whose directory and header say that its training images have so many bytes."""
    raw = bytearray(npz(npy(f"({size // 192}, 8, 8, 3)", body=bytes(64)), zipfile.ZIP_DEFLATED))
    place = raw.index(b"PK\1\2")
    raw[place + 24 : place + 28] = struct.pack("<I", size)
    return bytes(raw)


NPZ = {
    "object_arrays": object_npz,
    "payload_plain_pickle": lambda: pickle.dumps(Payload()),
    "shape_of_terabytes": lambda: npz(npy(f"({HUGE}, 8, 8, 3)")),
    "shape_beyond_integers": lambda: npz(npy(f"({'9' * 400}, 8)")),
    "negative_shape": lambda: npz(npy("(-4, -8, 8, 3)")),
    "shape_of_words": lambda: npz(npy("('a', 8)")),
    "header_runs_code": lambda: npz(npy(f"(__import__('os').system('touch {HARM}'),)")),
    "header_of_gigabytes": lambda: npz(b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 1) + b"x" * 100),
    "header_too_long": lambda: npz(npy("(4, 8, 8, 3" + ", 1" * 9000 + ")")),
    "header_nested": lambda: npz(npy("(" * 4000 + ")" * 4000)),
    "itemsize_of_gigabytes": lambda: npz(npy("(4,)", f"'<U{2**29}'")),
    "dtype_of_objects": lambda: npz(npy("(4,)", "'|O'")),
    "dtype_of_fields": lambda: npz(npy("(4,)", "[('a', '|u1'), ('b', '|O')]")),
    "zip_bomb": lambda: npz(npy(f"({2**17}, 8, 8, 3)", body=bytes(192 * 2**17)), zipfile.ZIP_DEFLATED),
    "declares_gigabytes": lambda: declared_npz(192 * 20_000_000),
    "names_of_megabytes": lambda: npz(
        classes=npy("(8,)", f"'<U{2**20}'", bytes(8 * 2**22)), compression=zipfile.ZIP_DEFLATED
    ),
    "names_of_objects": lambda: npz(classes=npy("(4,)", "'|O'", pickle.dumps(Payload()))),
    "path_traversal": lambda: npz(**{"../../evil": b"x"}),
    "empty": lambda: b"",
    "html": lambda: b"<html>404</html>",
    **{
        f"cut_at_{share}_percent": lambda share=share: (lambda raw: raw[: len(raw) * share // 100])(npz())
        for share in (1, 50, 90, 99)
    },
}


# CIFAR's own files


def cifar_pickle(count=4, labels="labels", extra=None, protocol=2):
    """A batch as CIFAR's own: Python 2's numpy and strings, under protocol 2."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3072), dtype=np.uint8)
    whole = {
        b"data": pixels,
        labels.encode(): list(range(count)),
        b"filenames": [b"a.png"] * count,
        b"batch_label": b"x",
    }
    raw = pickle.dumps(whole | (extra or {}), protocol=protocol)
    return raw.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"), pixels


CIFAR = {
    "payload": lambda: pickle.dumps({"data": Payload(), "labels": [0]}, protocol=2),
    "payload_beside_the_data": lambda: cifar_pickle(extra={b"x": Payload()})[0],
    "array_of_terabytes": lambda: cifar_pickle()[0].replace(
        b"K\x04M\x00\x0c\x86", b"\x8a\x06" + HUGE.to_bytes(6, "little") + b"M\x00\x0c\x86"
    ),
    "memo_of_terabytes": lambda: b"\x80\x02}r" + struct.pack("<I", 2**32 - 1) + b".",
    "bytes_of_terabytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", HUGE) + b".",
    "objects": lambda: pickle.dumps({"data": np.array([Payload()]), "labels": [0]}, protocol=2),
    "numpy_load": lambda: b"cnumpy\nload\n(S'x'\ntR.",
    "no_dict": lambda: pickle.dumps([1, 2], protocol=2),
    "no_labels": lambda: pickle.dumps({"data": [1]}, protocol=2),
    "empty": lambda: b"",
    "cut": lambda: cifar_pickle()[0][:5000],
}


def tar_with(member, kind=tarfile.REGTYPE, target=""):
    """A tar.gz with one member of a name and kind of one's own."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        info = tarfile.TarInfo(member)
        info.type, info.linkname, info.size = kind, target, 4 if kind == tarfile.REGTYPE else 0
        tar.addfile(info, io.BytesIO(b"evil"))
    return file.getvalue()


TARS = {
    "parent": lambda: tar_with("../evil"),
    "absolute": lambda: tar_with("/tmp/evil-of-a-test"),
    "inside_and_out": lambda: tar_with("a/../../evil"),
    "symbolic_link": lambda: tar_with("link", tarfile.SYMTYPE, "/etc"),
    "hard_link": lambda: tar_with("link", tarfile.LNKTYPE, "../../etc/passwd"),
    "device": lambda: tar_with("device", tarfile.CHRTYPE),
    "pipe": lambda: tar_with("pipe", tarfile.FIFOTYPE),
    "cut": lambda: tar_with("a")[:60],
}


# Images

IMAGES = {
    "bomb": lambda: png(60_000, 60_000),
    "bomb_beyond_pillow": lambda: png(2**31 - 1, 2**31 - 1),
    "more_than_it_holds": lambda: png(64, 64, bytes(10)),
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(HARM) (w) file\n",
    "no_image": lambda: b"<svg/>",
    "empty": lambda: b"",
    "cut": lambda: png(32, 32, np.random.default_rng(0).bytes(97 * 32))[:1000],
}


# Configurations


def billion_laughs():
    """Nine aliases of nine aliases of ..."""
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefghij", "bcdefghijk", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


CONFIGS = {
    "python_object": f"!!python/object/apply:os.system ['touch {HARM}']",
    "python_name": "trainer: {logger: !!python/name:os.system }",
    "billion_laughs": billion_laughs(),
    "itself": "trainer: &x {a: *x}",
    "deep_brackets": "a: " + "[" * 100_000,
    "deep_closed": "model: " + "{net: " * 400 + "1" + "}" * 400,
    "deep_lists": "- " * 5000,
    "long": "a: " + "v" * 3_000_000,
    "many": "a: [" + "1, " * 100_000 + "1]",
    "digits": "trainer: {max_epochs: " + "9" * 5000 + "}",
    "binary": "\x00\x01\x02",
    "list": "[1, 2]",
    "code_in_a_list": "trainer: {callbacks: [{class_path: canary.Canary}]}",
    "code_in_the_schedule": "sparsity: {schedule: canary.harm}",
    "code_in_dict_kwargs": "trainer: {logger: {class_path: pytorch_lightning.loggers.TensorBoardLogger, "
    "init_args: {save_dir: .}, dict_kwargs: {x: {class_path: canary.Canary}}}}",
    "code_through_torch": "sparsity: {schedule: {class_path: torch.os.system, init_args: {command: touch HARM}}}",
    "code_through_a_callback": "trainer: {callbacks: [{class_path: pytorch_lightning.callbacks.LambdaCallback, "
    "init_args: {on_fit_start: canary.harm}}]}",
    "the_command_line_itself": "sparsity: {schedule: {class_path: spikesparse.commands.cli.SpikeCLI, "
    "init_args: {args: [fit, --allow-import=canary, --sparsity.schedule=canary.harm]}}}",
    "a_process": "sparsity: {schedule: {class_path: torch.distributed.elastic.multiprocessing.subprocess_handler."
    "SubprocessHandler, init_args: {entrypoint: touch, args: [HARM], env: {}, stdout: x, stderr: y}}}",
    "allows_itself": "allow_import: canary\nsparsity: {schedule: canary.harm}",
    "unsafe_checkpoint": "weights_only: false\nckpt_path: evil.ckpt",
}
CANARY = f"open({HARM!r}, 'w')\nclass Canary: pass\ndef harm(*args): pass\n"
