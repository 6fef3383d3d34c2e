// As much of libcuda as worker::nccl calls, over the host's memory. The number of GPUs is PLAYED_GPUS.
#include <stdlib.h>
#include <string.h>

typedef struct { int pending; } stream;

static int gpus(void) { const char *text = getenv("PLAYED_GPUS"); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return flags == 0 ? 0 : 1; }
int cuDeviceGetCount(int *count) { *count = gpus(); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < gpus() ? 0 : 101; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = malloc(1); return device < gpus() ? 0 : 101; }
int cuDevicePrimaryCtxRelease_v2(int device) { return device < gpus() ? 0 : 101; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuStreamCreate(void **made, unsigned flags) { *made = calloc(1, sizeof(stream)); return flags == 1 ? 0 : 1; }
int cuStreamDestroy_v2(void *gone) { free(gone); return 0; }
int cuStreamQuery(stream *asked) { return __atomic_load_n(&asked->pending, __ATOMIC_ACQUIRE) ? 600 : 0; }
int cuMemAlloc_v2(unsigned long long *address, size_t bytes) { *address = (unsigned long long)malloc(bytes); return 0; }
int cuMemFree_v2(unsigned long long address) { free((void *)address); return 0; }
int cuMemcpyHtoD_v2(unsigned long long to, const void *from, size_t bytes) { memcpy((void *)to, from, bytes); return 0; }
int cuMemcpyDtoH_v2(void *to, unsigned long long from, size_t bytes) { memcpy(to, (void *)from, bytes); return 0; }
int cuGetErrorString(int code, const char **words) { *words = code == 101 ? "invalid device ordinal" : "some error"; return 0; }
