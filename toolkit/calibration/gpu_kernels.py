"""The CUDA kernels of calibration on a GPU, compiled at run time, and the calls that launch them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from toolkit.base.errors import BackendError
from toolkit.base.text import on_one_line

SOURCE = r"""
// One launch serves all tensors: work[b] = (tensor, first element) for block b. Statistics of one batch go into
// `low` and `high` as floats whose bits were made to sort like unsigned integers.
#define INFINITE 0x7f800000u

__device__ __forceinline__ unsigned key(float v) {
    unsigned u = __float_as_uint(v);
    return (u & 0x80000000u) ? ~u : u | 0x80000000u;
}
__device__ __forceinline__ float value(unsigned k) {
    return __uint_as_float((k & 0x80000000u) ? k & 0x7fffffffu : ~k);
}
__device__ __forceinline__ bool finite(float v) { return (__float_as_uint(v) & INFINITE) != INFINITE; }

extern "C" __global__ void extremes(const float* const* tensors, const long long* sizes, const int2* work, int span,
                                    unsigned* low, unsigned* high, unsigned long long* nonfinite) {
    int2 job = work[blockIdx.x];
    const float* x = tensors[job.x];
    long long begin = (long long)job.y * span, end = min(begin + (long long)span, sizes[job.x]);
    unsigned lo = 0xffffffffu, hi = 0u, odd = 0u;
    auto take = [&](float v) {
        if (finite(v)) { unsigned k = key(v + 0.0f); lo = min(lo, k); hi = max(hi, k); } else ++odd;
    };
    long long body = begin + ((end - begin) & ~3LL);
    for (long long i = begin + 4LL * threadIdx.x; i < body; i += 4LL * blockDim.x) {
        float4 v = *reinterpret_cast<const float4*>(x + i);
        take(v.x); take(v.y); take(v.z); take(v.w);
    }
    for (long long i = body + threadIdx.x; i < end; i += blockDim.x) take(x[i]);
    for (int step = 16; step; step >>= 1) {
        lo = min(lo, __shfl_xor_sync(0xffffffffu, lo, step));
        hi = max(hi, __shfl_xor_sync(0xffffffffu, hi, step));
        odd += __shfl_xor_sync(0xffffffffu, odd, step);
    }
    if ((threadIdx.x & 31) == 0) {
        if (lo != 0xffffffffu) atomicMin(low + job.x, lo);
        if (hi) atomicMax(high + job.x, hi);
        if (odd) atomicAdd(nonfinite + job.x, (unsigned long long)odd);
    }
}

// One block a tensor: where the batch's largest magnitude needs a wider range, neighbouring bins are added up.
extern "C" __global__ void widen(const unsigned* low, const unsigned* high, int* exponent, unsigned long long* counts,
                                 int bins, int lowest) {
    int t = blockIdx.x;
    __shared__ int grow;
    if (threadIdx.x == 0) {
        grow = 0;
        if (high[t]) {
            float magnitude = fmaxf(fabsf(value(low[t])), fabsf(value(high[t])));
            int e = lowest;
            if (magnitude > 0.0f) { frexpf(magnitude, &e); e = max(e, lowest); }
            grow = max(0, e - exponent[t]);
        }
    }
    __syncthreads();
    if (!grow) return;
    long long factor = grow >= 30 ? bins : min(1LL << grow, (long long)bins);
    unsigned long long* mine = counts + (long long)t * bins;
    // bins only move downwards, a range at a time, so this can be done in place between two barriers
    for (int base = 0; base < bins; base += blockDim.x) {
        int target = base + threadIdx.x;
        unsigned long long sum = 0;
        if (target < bins / factor) for (long long i = 0; i < factor; ++i) sum += mine[target * factor + i];
        __syncthreads();
        if (target < bins) mine[target] = sum;
        __syncthreads();
    }
    if (threadIdx.x == 0) exponent[t] += grow;
}

extern "C" __global__ void histogram(const float* const* tensors, const long long* sizes, const int2* work, int span,
                                     const int* exponent, unsigned long long* counts, unsigned long long* zeros,
                                     int bins) {
    extern __shared__ unsigned shared[];
    for (int i = threadIdx.x; i < bins; i += blockDim.x) shared[i] = 0;
    __syncthreads();
    int2 job = work[blockIdx.x];
    const float* x = tensors[job.x];
    long long begin = (long long)job.y * span, end = min(begin + (long long)span, sizes[job.x]);
    float scale = ldexpf((float)bins, -exponent[job.x]);
    unsigned none = 0;
    auto take = [&](float v) {
        if (v == 0.0f) ++none;
        else if (finite(v)) atomicAdd(shared + min((int)(fabsf(v) * scale), bins - 1), 1u);
    };
    long long body = begin + ((end - begin) & ~3LL);
    for (long long i = begin + 4LL * threadIdx.x; i < body; i += 4LL * blockDim.x) {
        float4 v = *reinterpret_cast<const float4*>(x + i);
        take(v.x); take(v.y); take(v.z); take(v.w);
    }
    for (long long i = body + threadIdx.x; i < end; i += blockDim.x) take(x[i]);
    for (int step = 16; step; step >>= 1) none += __shfl_xor_sync(0xffffffffu, none, step);
    if ((threadIdx.x & 31) == 0 && none) atomicAdd(zeros + job.x, (unsigned long long)none);
    __syncthreads();
    unsigned long long* mine = counts + (long long)job.x * bins;
    for (int i = threadIdx.x; i < bins; i += blockDim.x)
        if (shared[i]) atomicAdd(mine + i, (unsigned long long)shared[i]);
}

// The batch's extremes go into the running ones, and are set back for the next batch.
extern "C" __global__ void keep(unsigned* low, unsigned* high, unsigned* all_low, unsigned* all_high, int count) {
    int t = blockIdx.x * blockDim.x + threadIdx.x;
    if (t >= count) return;
    all_low[t] = min(all_low[t], low[t]);
    all_high[t] = max(all_high[t], high[t]);
    low[t] = 0xffffffffu;
    high[t] = 0u;
}
"""
THREADS = 256
SPAN = 1 << 16
LOWEST = -100


def check(answer: Any, what: str) -> Any:
    """The result of a cuda-python call without its status.

    Raises:
        BackendError: the status is not success.
    """
    status, *rest = answer if isinstance(answer, tuple) else (answer,)
    if int(status) != 0:
        raise BackendError(f"{what} failed: {status}", remedy="check the GPU with nvidia-smi, or calibrate on the CPU")
    return rest[0] if len(rest) == 1 else tuple(rest)


def modules() -> tuple[Any, Any]:
    """cuda-python's driver and NVRTC modules, under their new or old names.

    Raises:
        BackendError: cuda-python is not installed.
    """
    try:
        from cuda.bindings import driver, nvrtc
    except ImportError:
        try:
            from cuda import cuda as driver
            from cuda import nvrtc
        except ImportError as error:
            raise BackendError(
                "calibration on a GPU needs cuda-python", remedy="run pip install 'qtool[tensorrt]'"
            ) from error
    return driver, nvrtc


class Kernels:
    """The compiled kernels on the current CUDA context."""

    def __init__(self) -> None:
        self.driver, nvrtc = modules()
        check(self.driver.cuInit(0), "cuInit")
        device = check(self.driver.cuDeviceGet(0), "cuDeviceGet")
        # TensorRT uses the primary context through the runtime API; the same memory must be seen here
        context = check(self.driver.cuDevicePrimaryCtxRetain(device), "cuDevicePrimaryCtxRetain")
        check(self.driver.cuCtxSetCurrent(context), "cuCtxSetCurrent")
        attribute = self.driver.CUdevice_attribute
        major = check(self.driver.cuDeviceGetAttribute(
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device), "cuDeviceGetAttribute")  # fmt: skip
        minor = check(self.driver.cuDeviceGetAttribute(
            attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device), "cuDeviceGetAttribute")  # fmt: skip
        module = check(self.driver.cuModuleLoadData(_compile(nvrtc, f"{major}{minor}")), "cuModuleLoadData")
        names = ("extremes", "widen", "histogram", "keep")
        self.functions = {n: check(self.driver.cuModuleGetFunction(module, n.encode()), n) for n in names}

    def launch(self, name: str, blocks: int, arguments: list[Any], shared: int = 0) -> None:
        """Start a kernel on the default stream. Arguments are (value, ctypes type) pairs."""
        values = tuple(a for a, _ in arguments)
        types = tuple(t for _, t in arguments)
        check(
            self.driver.cuLaunchKernel(
                self.functions[name], blocks, 1, 1, THREADS, 1, 1, shared, 0, (values, types), 0
            ),
            f"launching {name}",
        )

    def allocate(self, size: int) -> int:
        """Allocate zeroed device memory; returns its address."""
        address = check(self.driver.cuMemAlloc(max(size, 16)), "cuMemAlloc")
        check(self.driver.cuMemsetD8(address, 0, max(size, 16)), "cuMemsetD8")
        return int(address)

    def free(self, address: int) -> None:
        """Free device memory."""
        check(self.driver.cuMemFree(address), "cuMemFree")

    def upload(self, address: int, values: np.ndarray[Any, Any]) -> None:
        """Copy an array to the device."""
        held = np.ascontiguousarray(values)
        check(self.driver.cuMemcpyHtoD(address, held.ctypes.data, held.nbytes), "cuMemcpyHtoD")

    def download(self, address: int, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Copy device memory into a contiguous array, after all kernels are done."""
        check(self.driver.cuMemcpyDtoH(values.ctypes.data, address, values.nbytes), "cuMemcpyDtoH")
        return values

    def wait(self) -> None:
        """Wait until the device has done everything."""
        check(self.driver.cuCtxSynchronize(), "a kernel")


def _compile(nvrtc: Any, capability: str) -> bytes:
    program = check(nvrtc.nvrtcCreateProgram(SOURCE.encode(), b"calibration.cu", 0, [], []), "nvrtcCreateProgram")
    options = [f"--gpu-architecture=compute_{capability}".encode(), b"--std=c++14", b"--extra-device-vectorization"]
    status = nvrtc.nvrtcCompileProgram(program, len(options), options)[0]
    if int(status) != 0:
        size = check(nvrtc.nvrtcGetProgramLogSize(program), "nvrtcGetProgramLogSize")
        text = b" " * size
        nvrtc.nvrtcGetProgramLog(program, text)
        raise BackendError(
            f"the calibration kernels do not compile: {on_one_line(text.decode(errors='replace'))}",
            remedy="calibrate on the CPU, and report this as a bug",
        )
    size = check(nvrtc.nvrtcGetPTXSize(program), "nvrtcGetPTXSize")
    code = b" " * size
    check(nvrtc.nvrtcGetPTX(program, code), "nvrtcGetPTX")
    return code


POINTER, INTEGER = ctypes.c_void_p, ctypes.c_int
