/* Preloaded into resnet-zoo by tests/it/promises.rs: counts the calls that change files below FAULT_ROOT, and at one of
 * them kills the process, lets the disk fail, or goes on as usual while a log of all of them is kept.
 *
 * FAULT_ROOT   a folder, absolute and without links
 * FAULT_AT     the number of the call, from 1; none where it is missing
 * FAULT_HOW    before | half | after: SIGKILL there, half of a write being done; or an errno: the call fails with it
 * FAULT_REST   1: every call from then on fails
 * FAULT_COUNT  a file that gets the number of calls when the process exits
 * FAULT_LOG    a file that gets every call, with its data, and what goes to standard output
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

#define REAL(result, name, ...) \
    static result (*real)(__VA_ARGS__); \
    if (!real) real = dlsym(RTLD_NEXT, name)

enum { PASS, FAIL, HALF, AFTER };

static const char *root, *count_file;
static size_t root_length;
static long at, rest, fault;
static int how, log_fd = -1;
static atomic_long calls;
static pthread_mutex_t log_lock = PTHREAD_MUTEX_INITIALIZER;
static ssize_t (*real_write)(int, const void *, size_t);

__attribute__((constructor)) static void begin(void) {
    real_write = dlsym(RTLD_NEXT, "write");
    root = getenv("FAULT_ROOT");
    root_length = root ? strlen(root) : 0;
    count_file = getenv("FAULT_COUNT");
    /* Children of the process are not meant. */
    unsetenv("LD_PRELOAD");
    const char *text = getenv("FAULT_AT");
    at = text ? atol(text) : 0;
    text = getenv("FAULT_REST");
    rest = text ? atol(text) : 0;
    text = getenv("FAULT_HOW");
    if (text && strcmp(text, "half") == 0) how = HALF;
    else if (text && strcmp(text, "after") == 0) how = AFTER;
    else if (text && strcmp(text, "before") != 0) { how = FAIL; fault = atol(text); }
    text = getenv("FAULT_LOG");
    if (text) {
        int (*real_open)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
        log_fd = real_open(text, O_WRONLY | O_CREAT | O_APPEND, 0600);
    }
}

__attribute__((destructor)) static void end(void) {
    if (!count_file) return;
    FILE *file = fopen(count_file, "w");
    if (!file) return;
    fprintf(file, "%ld", (long)calls);
    fclose(file);
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int below(const char *path) {
    char whole[PATH_MAX];
    if (!root) return 0;
    if (path[0] != '/') {
        if (!getcwd(whole, sizeof whole)) return 0;
        strncat(whole, "/", sizeof whole - strlen(whole) - 1);
        strncat(whole, path, sizeof whole - strlen(whole) - 1);
        path = whole;
    }
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int fd_below(int fd, char *path) {
    char link[64];
    if (!root) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    char *deleted = strstr(path, " (deleted)");
    if (deleted) return 0;
    return below(path);
}

/* What to do with this call; counts it. */
static int next(void) {
    long number = atomic_fetch_add(&calls, 1) + 1;
    if (!at || number < at || (number > at && !rest)) return PASS;
    if (how == PASS) die();
    if (how == FAIL) errno = (int)fault;
    return how;
}

/* One record: kind, numbers, lengths, then path, second path and data. */
static void note(char kind, const char *path, const char *second, uint64_t number, const void *data, size_t length) {
    if (log_fd < 0) return;
    uint64_t head[5] = {(uint64_t)kind, number, strlen(path), second ? strlen(second) : 0, length};
    pthread_mutex_lock(&log_lock);
    real_write(log_fd, head, sizeof head);
    real_write(log_fd, path, head[2]);
    if (second) real_write(log_fd, second, head[3]);
    if (length) real_write(log_fd, data, length);
    pthread_mutex_unlock(&log_lock);
}

static int opening(int directory, const char *path, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    int changes = (flags & (O_CREAT | O_TRUNC)) && below(path);
    /* Opening what is there with O_CREAT changes nothing. */
    if (changes && !(flags & O_TRUNC) && access(path, F_OK) == 0) changes = 0;
    int what = changes ? next() : PASS;
    if (what == FAIL) return -1;
    int fd = real(directory, path, flags, mode);
    if (changes && fd >= 0) note('c', path, NULL, (flags & O_TRUNC) != 0, NULL, 0);
    if (what != PASS) die();
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list); \
        return opening(AT_FDCWD, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
    int name(int directory, const char *path, int flags, ...) { \
        va_list list; va_start(list, flags); mode_t mode = va_arg(list, int); va_end(list); \
        return opening(directory, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t length) {
    char path[PATH_MAX];
    if (!fd_below(fd, path)) {
        if (fd == 1) note('a', "", NULL, 0, data, length);
        return real_write(fd, data, length);
    }
    int what = next();
    if (what == FAIL) return -1;
    off64_t offset = lseek64(fd, 0, (fcntl(fd, F_GETFL) & O_APPEND) ? SEEK_END : SEEK_CUR);
    ssize_t done = real_write(fd, data, what == HALF ? length / 2 : length);
    if (done > 0) note('w', path, NULL, (uint64_t)offset, data, (size_t)done);
    if (what != PASS) die();
    return done;
}

#define PWRITE(name, kind) \
    ssize_t name(int fd, const void *data, size_t length, kind offset) { \
        REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t); \
        char path[PATH_MAX]; \
        if (!fd_below(fd, path)) return real(fd, data, length, offset); \
        int what = next(); \
        if (what == FAIL) return -1; \
        ssize_t done = real(fd, data, what == HALF ? length / 2 : length, offset); \
        if (done > 0) note('w', path, NULL, (uint64_t)offset, data, (size_t)done); \
        if (what != PASS) die(); \
        return done; \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define SYNC(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        char path[PATH_MAX]; \
        if (!fd_below(fd, path)) return real(fd); \
        int what = next(); \
        if (what == FAIL) return -1; \
        int result = real(fd); \
        if (result == 0) note('s', path, NULL, 0, NULL, 0); \
        if (what != PASS) die(); \
        return result; \
    }
SYNC(fsync)
SYNC(fdatasync)

#define TRUNCATE(name, kind) \
    int name(int fd, kind length) { \
        REAL(int, "ftruncate64", int, off64_t); \
        char path[PATH_MAX]; \
        if (!fd_below(fd, path)) return real(fd, length); \
        int what = next(); \
        if (what == FAIL) return -1; \
        int result = real(fd, length); \
        if (result == 0) note('t', path, NULL, (uint64_t)length, NULL, 0); \
        if (what != PASS) die(); \
        return result; \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define ON_PATH(name, letter) \
    int name(const char *path) { \
        REAL(int, #name, const char *); \
        if (!below(path)) return real(path); \
        int what = next(); \
        if (what == FAIL) return -1; \
        int result = real(path); \
        if (result == 0) note(letter, path, NULL, 0, NULL, 0); \
        if (what != PASS) die(); \
        return result; \
    }
ON_PATH(unlink, 'u')
ON_PATH(rmdir, 'd')

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (!below(path) || access(path, F_OK) == 0) return real(path, mode);
    int what = next();
    if (what == FAIL) return -1;
    int result = real(path, mode);
    if (result == 0) note('m', path, NULL, 0, NULL, 0);
    if (what != PASS) die();
    return result;
}

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (!below(from) && !below(to)) return real(from, to);
    int what = next();
    if (what == FAIL) return -1;
    int result = real(from, to);
    if (result == 0) note('r', from, to, 0, NULL, 0);
    if (what != PASS) die();
    return result;
}
