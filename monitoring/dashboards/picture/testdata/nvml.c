// A stand-in for NVIDIA's management library, so that a machine without a GPU shows how the GPU dashboard looks: one GPU, which
// loads a model for 20 s and works from then on. All of it is made up; no test asserts any of its readings.
//
//   gcc -shared -fPIC -o libnvidia-ml.so.1 nvml.c -lm && LD_LIBRARY_PATH=. spool run ...    (spool built with the tag nvml)
#include <math.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long u64;
enum { SUCCESS = 0, TIMEOUT = 10 };
static char gpu;
static double begin;

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}
static double age(void) { return now() - begin; }
// 0 while the model is loaded, then near 1, a little different for each process.
static double load(void) { return age() < 20 ? 0.05 : 0.9 + 0.07 * sin(age() / 9 + getpid()) - 0.2 * (fmod(age() + getpid() % 40, 83) < 6); }

int nvmlInit_v2(void) { begin = now(); return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int ret) { return ret ? "failed" : "success"; }
int nvmlSystemGetDriverVersion(char *s, unsigned n) { snprintf(s, n, "0.0 stand-in"); return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **d) { (void)i; *d = &gpu; return SUCCESS; }
int nvmlDeviceGetUUID(void *d, char *s, unsigned n) { (void)d; snprintf(s, n, "GPU-%08x", getpid()); return SUCCESS; }
int nvmlDeviceGetName(void *d, char *s, unsigned n) { (void)d; snprintf(s, n, "stand-in GPU"); return SUCCESS; }

int nvmlDeviceGetUtilizationRates(void *d, unsigned u[2]) { (void)d; u[0] = 100 * load(); u[1] = u[0] / 2; return SUCCESS; }
typedef struct { unsigned version; u64 total, reserved, free, used; } memory;
int nvmlDeviceGetMemoryInfo_v2(void *d, memory *m) {
	(void)d;
	m->total = 80ull << 30, m->used = fmin(1, age() / 20) * 0.88 * m->total, m->free = m->total - m->used;
	return SUCCESS;
}
int nvmlDeviceGetTemperature(void *d, int sensor, unsigned *t) {
	(void)d, (void)sensor;
	*t = 34 + 38 * (1 - exp(-age() / 60)) + 4 * load();
	return SUCCESS;
}
static double watts(void) { return 70 + 580 * load(); }
int nvmlDeviceGetPowerUsage(void *d, unsigned *mw) { (void)d; *mw = 1000 * watts(); return SUCCESS; }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *mw) { (void)d; *mw = 700000; return SUCCESS; }
int nvmlDeviceGetTotalEnergyConsumption(void *d, u64 *mj) {
	static double sum, last;
	double t = now();
	(void)d;
	if (last > 0) sum += 1000 * watts() * (t - last);
	last = t, *mj = 1e9 + sum;
	return SUCCESS;
}
int nvmlDeviceGetClockInfo(void *d, int kind, unsigned *mhz) { (void)d; *mhz = kind == 2 ? 2619 : 1755; return SUCCESS; }
int nvmlDeviceGetCurrentClocksEventReasons(void *d, u64 *bits) { (void)d; *bits = load() > 0.93 ? 4 : 0; return SUCCESS; } // power cap
int nvmlDeviceGetTotalEccErrors(void *d, int kind, int counter, u64 *n) {
	(void)d, (void)counter;
	*n = kind == 0 && age() > 90 ? 1 : 0; // one that was corrected
	return SUCCESS;
}

typedef struct { void *device; u64 type, data; unsigned gi, ci; } event;
int nvmlEventSetCreate(void **set) { *set = &gpu; return SUCCESS; }
int nvmlEventSetFree(void *set) { (void)set; return SUCCESS; }
int nvmlDeviceRegisterEvents(void *d, u64 types, void *set) { (void)d, (void)types, (void)set; return SUCCESS; }
int nvmlEventSetWait_v2(void *set, event *e, unsigned ms) {
	static int told;
	(void)set;
	if (!told && age() > 60) { // XID 13: a program's fault, the GPU goes on
		told = 1, *e = (event){&gpu, 8, 13, 0, 0};
		return SUCCESS;
	}
	usleep(1000 * ms);
	return TIMEOUT;
}
