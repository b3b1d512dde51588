"""Calls the device functions as the library does: addresses, shapes and strides of device memory, a stream, and a workspace.

The device is emulated (built here with a C++ compiler) unless SGS_CUDA_MODULE names a built module, or is "gpu": then it is the
installed `sgs._core.cuda` with memory from torch.
"""

import ctypes
import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

ROOT = Path(__file__).parents[2]
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOATS = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
CODES = {dtype: code for code, dtype in enumerate(FLOATS)}
NONE, LINE, CROSS, CROSS_SUM = range(4)
METRICS = ("euclidean", "cityblock", "sqeuclidean")


def load_file(path: Path, name: str) -> ModuleType:
    """A module by its file, without the package around it."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class HostMemory:
    """The emulated device's: blocks of exactly the size asked for, so that a sanitizer sees where they end."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None)
        self.libc.aligned_alloc.restype = ctypes.c_void_p
        self.libc.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
        self.libc.malloc.restype = ctypes.c_void_p
        self.libc.malloc.argtypes = [ctypes.c_size_t]
        self.libc.free.argtypes = [ctypes.c_void_p]

    def allocate(self, size: int, alignment: int = 1) -> int:
        address = self.libc.aligned_alloc(256, -(-size // 256) * 256) if alignment > 16 else self.libc.malloc(size)
        return int(address or 0)

    def free(self, address: int) -> None:
        self.libc.free(address)

    def write(self, address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)


class RuntimeMemory:
    """Of a module that exports the CUDA runtime's functions."""

    def __init__(self, path: str) -> None:
        self.library = ctypes.CDLL(path)

    def allocate(self, size: int, alignment: int = 1) -> int:
        pointer = ctypes.c_void_p()
        assert self.library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)) == 0
        return int(pointer.value or 0)

    def free(self, address: int) -> None:
        self.library.cudaFree(ctypes.c_void_p(address))

    def write(self, address: int, data: bytes) -> None:
        assert self.library.cudaMemcpy(ctypes.c_void_p(address), data, ctypes.c_size_t(len(data)), 1) == 0

    def read(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(size)
        assert self.library.cudaMemcpy(data, ctypes.c_void_p(address), ctypes.c_size_t(size), 2) == 0
        return data.raw


class TorchMemory:
    """Of a real device."""

    def __init__(self) -> None:
        self.torch = importlib.import_module("torch")
        self.blocks: dict[int, Any] = {}

    def allocate(self, size: int, alignment: int = 1) -> int:
        block = self.torch.empty(size, dtype=self.torch.uint8, device="cuda")
        self.blocks[block.data_ptr()] = block
        return int(block.data_ptr())

    def free(self, address: int) -> None:
        del self.blocks[address]

    def _within(self, address: int, size: int) -> Any:
        for start, block in self.blocks.items():
            if start <= address and address + size <= start + block.numel():
                return block[address - start : address - start + size]
        raise AssertionError("not device memory")

    def write(self, address: int, data: bytes) -> None:
        if not data:
            return
        self._within(address, len(data)).copy_(self.torch.frombuffer(bytearray(data), dtype=self.torch.uint8))

    def read(self, address: int, size: int) -> bytes:
        return bytes(self._within(address, size).cpu().numpy())


class Out:
    """An array that the call writes."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array


class OnDevice:
    """One number in device memory."""

    def __init__(self, value: float, dtype: Any = np.float32) -> None:
        self.array = np.array([value], dtype=dtype)


def _extent(a: np.ndarray) -> tuple[int, int]:
    """First byte of the array's memory, and how many there are."""
    address = a.__array_interface__["data"][0]
    if a.size == 0:
        return address, 0
    low = sum(min(s * (n - 1), 0) for s, n in zip(a.strides, a.shape, strict=True))
    high = sum(max(s * (n - 1), 0) for s, n in zip(a.strides, a.shape, strict=True))
    return address + low, high - low + a.itemsize


class Device:
    def __init__(self, module: ModuleType, memory: Any) -> None:
        self.module, self.memory = module, memory

    def call(self, name: str, *arguments: Any) -> int:
        """Runs a function on copies of the arrays in device memory, and copies back what `Out` marks. Returns the workspace."""
        function = getattr(self.module, name)
        blocks: dict[tuple[int, int], int] = {}
        outputs: list[tuple[np.ndarray, int]] = []

        def place(a: np.ndarray) -> int:
            start, size = _extent(a)
            if size == 0:
                return 0
            if (start, size) not in blocks:
                blocks[start, size] = self.memory.allocate(size)
                self.memory.write(blocks[start, size], ctypes.string_at(start, size))
            return blocks[start, size] + a.__array_interface__["data"][0] - start

        def convert(value: Any) -> Any:
            if isinstance(value, OnDevice):
                return (place(value.array), CODES[value.array.dtype])
            if isinstance(value, Out):
                outputs.append((value.array, place(value.array)))
                value = value.array
            if isinstance(value, np.ndarray):
                strides = tuple(s // value.itemsize for s in value.strides)
                return (place(value), CODES[value.dtype], value.shape, strides)
            if isinstance(value, tuple):
                return value  # as it is
            if isinstance(value, list):
                return [convert(v) for v in value]
            return value

        converted = [convert(a) for a in arguments]
        need = function(*converted, 0, None)
        # Not to be had by luck: a workspace one byte smaller is refused, and what it holds before is NaN.
        if need > 0:
            try:
                function(*converted, 0, (256, need - 1))
            except ValueError:
                pass
            else:
                raise AssertionError("a workspace that is too small was taken")
        workspace = self.memory.allocate(max(need, 1), 256)
        self.memory.write(workspace, b"\xff" * need)
        try:
            function(*converted, 0, (workspace, need))
            for array, address in outputs:
                start, size = _extent(array)
                if size:
                    data = self.memory.read(address - array.__array_interface__["data"][0] + start, size)
                    ctypes.memmove(start, data, size)
        finally:
            for address in (workspace, *blocks.values()):
                self.memory.free(address)
        return int(need)


def open_device(path: str) -> Device:
    """ "gpu", or a built module's file."""
    if path == "gpu":
        return Device(importlib.import_module("sgs._core").cuda, TorchMemory())
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    emulated = hasattr(module, "set_order")
    return Device(module, HostMemory() if emulated else RuntimeMemory(path))


def checking() -> bool:
    """Results are compared; under a sanitizer the kernels only run."""
    return os.environ.get("SGS_CUDA_CHECK", "1") == "1"
