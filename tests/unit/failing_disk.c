/* A disk whose n-th write or sync of a database fails, once. fail_at(what, n): what 'w' or 's'; n = 0: none. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile char failing;
static volatile int left;

void fail_at(char what, int n) { left = 0; failing = what; left = n; }

int is_due(void) { return left > 0; }

static int fails(char what, int fd)
{
    char link[64], path[4096];
    if (what != failing || left <= 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    if (!strstr(path, ".sqlite") || --left) return 0;
    errno = EIO;
    return 1;
}

#define REAL(name) dlsym(RTLD_NEXT, #name)

int fsync(int fd) { return fails('s', fd) ? -1 : ((int (*)(int)) REAL(fsync))(fd); }
int fdatasync(int fd) { return fails('s', fd) ? -1 : ((int (*)(int)) REAL(fdatasync))(fd); }

ssize_t pwrite64(int fd, const void *data, size_t n, off64_t at)
{
    return fails('w', fd) ? -1 : ((ssize_t (*)(int, const void *, size_t, off64_t)) REAL(pwrite64))(fd, data, n, at);
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at) { return pwrite64(fd, data, n, at); }
ssize_t write(int fd, const void *data, size_t n)
{
    return fails('w', fd) ? -1 : ((ssize_t (*)(int, const void *, size_t)) REAL(write))(fd, data, n);
}
