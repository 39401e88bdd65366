"""Between `model.safetensors` and the form that the package keeps of it (models/build.rs says which, and why).

    python planes.py split ../models/tiny    # model.safetensors -> model.safetensors.planes; the first is removed
    python planes.py join ../models/tiny     # and back, for --init and everything else that reads a checkpoint
"""
import sys
from pathlib import Path


def header_bytes(data):
    return 8 + int.from_bytes(data[:8], "little")


def split(data):
    """All tensors must be bfloat16: high bytes compress, low bytes do not."""
    n = header_bytes(data)
    return data[:n] + data[n + 1::2] + data[n::2]


def join(data):
    n = header_bytes(data)
    half = n + (len(data) - n) // 2
    whole = bytearray(data)
    whole[n + 1::2], whole[n::2] = data[n:half], data[half:]
    return bytes(whole)


if __name__ == "__main__":
    which, folder = sys.argv[1], Path(sys.argv[2])
    whole, planes = folder / "model.safetensors", folder / "model.safetensors.planes"
    if which == "split":
        planes.write_bytes(split(whole.read_bytes()))
        whole.unlink()
    else:
        whole.write_bytes(join(planes.read_bytes()))
