/* A clock that can be moved: LD_PRELOAD for one process and its children (benchmarks/chaos/clock.py).

   The file that CHAOS_CLOCK names holds the seconds, as a 64-bit integer, by which the real-time
   clock is off. The monotonic clock is not moved, as when somebody sets a machine's date. What waits
   until a moment of the real-time clock waits as long as it would have. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int64_t nowhere;
static volatile int64_t *offset_s = &nowhere;

static int (*real_gettime)(clockid_t, struct timespec *);
static int (*real_wait)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_gettime = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    real_wait = (int (*)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *))
        dlsym(RTLD_NEXT, "pthread_cond_timedwait");
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(NULL, sizeof(int64_t), PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED)
        offset_s = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = real_gettime ? real_gettime(clock, now)
                              : (int)syscall(SYS_clock_gettime, clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset_s;
    return failed;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec exact;
    (void)zone;
    int failed = clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return failed;
}

time_t time(time_t *kept) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (kept)
        *kept = now.tv_sec;
    return now.tv_sec;
}

/* The kernel wakes these by its own clock. Both are used with the real-time clock by gRPC only. */
int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex,
                           const struct timespec *until) {
    struct timespec moved = *until;
    struct timespec mono;
    /* A moment of the monotonic clock is far below one of the real-time clock. */
    real_gettime(CLOCK_MONOTONIC, &mono);
    if (moved.tv_sec > mono.tv_sec + 1000000000L / 2)
        moved.tv_sec -= *offset_s;
    return real_wait(condition, mutex, &moved);
}

long syscall(long number, ...) {
    static long (*real_syscall)(long, ...);
    if (!real_syscall)
        real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    va_list rest;
    long a[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    struct timespec moved;
    if (number == SYS_futex && a[3] && (a[1] & FUTEX_CLOCK_REALTIME)) {
        moved = *(const struct timespec *)a[3];
        moved.tv_sec -= *offset_s;
        a[3] = (long)&moved;
    }
    return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
