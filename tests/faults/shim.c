/* Preloaded before libc: counts the calls that change what is under one directory, and at the chosen one kills the
 * process or lets the call fail. A write that is killed is torn: half of it is written first. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL, FAIL_ON };         /* what happens at the chosen call; FAIL_ON: and at all that follow */
enum { ANY_CHANGE, NEEDS_SPACE };              /* which calls count */

static struct {
    char directory[PATH_MAX];
    size_t length;
    long *count, chosen;
    int action, error, which;
} plan;

void faults_arm(const char *directory, long *count, long chosen, int action, int error, int which) {
    snprintf(plan.directory, sizeof plan.directory, "%s", directory);
    plan.count = count, plan.chosen = chosen, plan.action = action, plan.error = error, plan.which = which;
    plan.length = strlen(directory);
}

static int concerned(const char *path) {
    return plan.length && path && !strncmp(path, plan.directory, plan.length);
}

static int concerned_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (!plan.length) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return concerned(path);
}

static int concerned_at(int fd, const char *path) {
    return path && path[0] == '/' ? concerned(path) : fd == AT_FDCWD ? 0 : concerned_fd(fd);
}

/* Returns what is to be done about a call that counts. */
static int due(int needs_space) {
    if (plan.which == NEEDS_SPACE && !needs_space) return NOTHING;
    long now = __atomic_fetch_add(plan.count, 1, __ATOMIC_SEQ_CST);
    if (now == plan.chosen || (plan.action == FAIL_ON && plan.chosen >= 0 && now > plan.chosen)) return plan.action;
    return NOTHING;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define BEFORE(is_concerned, needs_space)                                                                             \
    if (is_concerned) {                                                                                               \
        int what = due(needs_space);                                                                                  \
        if (what == KILL) die();                                                                                      \
        if (what != NOTHING) { errno = plan.error; return -1; }                                                       \
    }

#define WRITE(name, offset)                                                                                           \
    if (concerned_fd(fd)) {                                                                                           \
        int what = due(1);                                                                                            \
        if (what == KILL) { REAL(name)(fd, content, size / 2 offset); die(); }                                        \
        if (what != NOTHING) { errno = plan.error; return -1; }                                                       \
    }                                                                                                                 \
    return REAL(name)(fd, content, size offset);

#define COMMA ,
ssize_t write(int fd, const void *content, size_t size) { WRITE(write, ) }
ssize_t pwrite(int fd, const void *content, size_t size, off_t at) { WRITE(pwrite, COMMA at) }
ssize_t pwrite64(int fd, const void *content, size_t size, off64_t at) { WRITE(pwrite64, COMMA at) }

#define OPEN(name, is_concerned, ...)                                                                                 \
    mode_t mode = 0;                                                                                                  \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                              \
        va_list more;                                                                                                 \
        va_start(more, flags);                                                                                        \
        mode = va_arg(more, mode_t);                                                                                  \
        va_end(more);                                                                                                 \
    }                                                                                                                 \
    BEFORE((flags & (O_CREAT | O_TRUNC)) && (is_concerned), 1)                                                        \
    return REAL(name)(__VA_ARGS__, flags, mode);

int open(const char *path, int flags, ...) { OPEN(open, concerned(path), path) }
int open64(const char *path, int flags, ...) { OPEN(open64, concerned(path), path) }
int openat(int fd, const char *path, int flags, ...) { OPEN(openat, concerned_at(fd, path), fd, path) }
int openat64(int fd, const char *path, int flags, ...) { OPEN(openat64, concerned_at(fd, path), fd, path) }

int ftruncate(int fd, off_t size) { BEFORE(concerned_fd(fd), 1) return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { BEFORE(concerned_fd(fd), 1) return REAL(ftruncate64)(fd, size); }
int fsync(int fd) { BEFORE(concerned_fd(fd), 1) return REAL(fsync)(fd); }
int fdatasync(int fd) { BEFORE(concerned_fd(fd), 1) return REAL(fdatasync)(fd); }
int mkdir(const char *path, mode_t mode) { BEFORE(concerned(path), 1) return REAL(mkdir)(path, mode); }
int rename(const char *from, const char *to) { BEFORE(concerned(to), 1) return REAL(rename)(from, to); }
int unlink(const char *path) { BEFORE(concerned(path), 0) return REAL(unlink)(path); }
int rmdir(const char *path) { BEFORE(concerned(path), 0) return REAL(rmdir)(path); }
int unlinkat(int fd, const char *path, int flags) {
    BEFORE(concerned_at(fd, path), 0)
    return REAL(unlinkat)(fd, path, flags);
}
