/* A wall clock that a file sets ahead or back, in seconds, for one process: LD_PRELOAD, DRILL_CLOCK names the file.
   Only the wall clock: monotonic time goes on. A wait until a moment of the wall clock is brought back to the kernel's. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <sys/time.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

static long ahead(void) {
    char text[32] = {0};
    const char *name = getenv("DRILL_CLOCK");
    int file = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return 0;
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    return length > 0 ? atol(text) : 0;
}

#define NEXT(name, version) (dlvsym(RTLD_NEXT, name, version) ? dlvsym(RTLD_NEXT, name, version) : dlsym(RTLD_NEXT, name))

int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*next)(clockid_t, struct timespec *);
    if (!next)
        next = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(clock, at);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)
        at->tv_sec += ahead();
    return result;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    int result = clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return result;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}

int timespec_get(struct timespec *at, int base) {
    clock_gettime(CLOCK_REALTIME, at);
    return base;
}

/* A moment of the monotonic clock is far smaller than one of the wall clock. */
static struct timespec kernels(const struct timespec *until) {
    struct timespec moment = *until;
    if (moment.tv_sec > 1000000000)
        moment.tv_sec -= ahead();
    return moment;
}

int pthread_cond_timedwait(pthread_cond_t *restrict met, pthread_mutex_t *restrict lock, const struct timespec *restrict until) {
    static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
    if (!next)
        next = NEXT("pthread_cond_timedwait", "GLIBC_2.3.2");
    struct timespec moment = kernels(until);
    return next(met, lock, &moment);
}

int cnd_timedwait(cnd_t *restrict met, mtx_t *restrict lock, const struct timespec *restrict until) {
    static int (*next)(cnd_t *, mtx_t *, const struct timespec *);
    if (!next)
        next = dlsym(RTLD_NEXT, "cnd_timedwait");
    struct timespec moment = kernels(until);
    return next(met, lock, &moment);
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    static int (*next)(sem_t *, const struct timespec *);
    if (!next)
        next = dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec moment = kernels(until);
    return next(semaphore, &moment);
}
