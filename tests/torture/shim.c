/* Between a process and its C library: the n-th write, fsync or rename below a folder kills the process, or the disk is
 * full after so many bytes. CPython, libtorch and Rust's standard library all call these by name.
 *
 * Loaded with LD_PRELOAD; asleep until torture_arm or torture_fill is called (through ctypes, in the child that dies).
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char below[4096];
static volatile long kill_at = -1, calls = 0; /* kill_at 0: count only */
static volatile long long room = -1;

void torture_arm(long n, const char *folder) {
    strncpy(below, folder, sizeof below - 1);
    calls = 0;
    kill_at = n;
}
void torture_fill(long long bytes, const char *folder) {
    strncpy(below, folder, sizeof below - 1);
    room = bytes;
}
long torture_calls(void) { return calls; }

static int ours(const char *path) { return below[0] && path && strstr(path, below) != NULL; }

static int ours_fd(int fd) {
    char link[64], path[4096];
    if (!below[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n <= 0) return 0;
    path[n] = 0;
    return ours(path);
}

static void counted(void) {
    if (kill_at < 0) return;
    long n = __sync_add_and_fetch(&calls, 1);
    if (kill_at && n == kill_at) kill(getpid(), SIGKILL);
}

static int full(size_t bytes) {
    if (room < 0) return 0;
    if ((long long)bytes > room) {
        errno = ENOSPC;
        return 1;
    }
    room -= bytes;
    return 0;
}

#define NEXT(type, name, ...) \
    static type (*next)(__VA_ARGS__); \
    if (!next) next = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

ssize_t write(int fd, const void *data, size_t n) {
    NEXT(ssize_t, write, int, const void *, size_t);
    if ((kill_at >= 0 || room >= 0) && ours_fd(fd)) {
        counted();
        if (full(n)) return -1;
    }
    return next(fd, data, n);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    NEXT(ssize_t, writev, int, const struct iovec *, int);
    if ((kill_at >= 0 || room >= 0) && ours_fd(fd)) {
        size_t bytes = 0;
        for (int i = 0; i < n; i++) bytes += parts[i].iov_len;
        counted();
        if (full(bytes)) return -1;
    }
    return next(fd, parts, n);
}
int fsync(int fd) {
    NEXT(int, fsync, int);
    if (kill_at >= 0 && ours_fd(fd)) counted();
    return next(fd);
}
int rename(const char *from, const char *to) {
    NEXT(int, rename, const char *, const char *);
    if (ours(from) || ours(to)) counted();
    return next(from, to);
}
