/* Gives the process into which it is preloaded a wall clock of its own: the system's and as many
   seconds as the file has that WALL_CLOCK names. Whoever writes to that file moves the clock.

   Monotonic clocks are left alone. Where a wait ends at a time of the wall clock, that is put back
   into the system's; of all that the stream is made of only librdkafka does so, by the call below. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static const int64_t none = 0;
static const volatile int64_t *ahead = &none;

__attribute__((constructor)) static void begin(void) {
    int file = open(getenv("WALL_CLOCK"), O_RDONLY);
    ahead = mmap(NULL, sizeof *ahead, PROT_READ, MAP_SHARED, file, 0);
    if (ahead == MAP_FAILED) abort();
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *at) {
    static __typeof__(&clock_gettime) system;
    if (!system) system = SYSTEM(clock_gettime);
    int failed = system(clock, at);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        at->tv_sec += *ahead;
    return failed;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    int failed = SYSTEM(gettimeofday)(at, zone);
    if (!failed && at) at->tv_sec += *ahead;
    return failed;
}

time_t time(time_t *at) {
    time_t now = SYSTEM(time)(NULL) + *ahead;
    if (at) *at = now;
    return now;
}

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until) {
    struct timespec system = {until->tv_sec - *ahead, until->tv_nsec};
    return SYSTEM(cnd_timedwait)(condition, mutex, &system);
}
