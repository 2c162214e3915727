/* Keeps of every file below $SYNC_FROM what it held at its own last successful sync, in $SYNC_TO: after a SIGKILL these
   copies are what a loss of power would have left on a disk that honours syncs. A file that was deleted is gone only
   once the folder was synced. Loaded with LD_PRELOAD. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void forget_deleted(const char *from, const char *to) {
  char there[8300], copy[8300];
  DIR *copies = opendir(to);
  struct dirent *entry;
  while (copies && (entry = readdir(copies))) {
    snprintf(there, sizeof there, "%s/%s", from, entry->d_name);
    snprintf(copy, sizeof copy, "%s/%s", to, entry->d_name);
    if (entry->d_name[0] != '.' && access(there, F_OK)) unlink(copy);
  }
  if (copies) closedir(copies);
}

static void keep(int fd) {
  char link[64], path[4096], name[4096], copy[8300], part[8310], buffer[65536];
  const char *from = getenv("SYNC_FROM"), *to = getenv("SYNC_TO");
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (!from || !to || length <= 0) return;
  path[length] = 0;
  if (!strcmp(path, from)) {
    forget_deleted(from, to);
    return;
  }
  if (strncmp(path, from, strlen(from))) return;
  snprintf(name, sizeof name, "%s", path + strlen(from) + 1);
  if (strchr(name, '/')) return; /* files of the folder itself */
  snprintf(copy, sizeof copy, "%s/%s", to, name);
  snprintf(part, sizeof part, "%s.part", copy);
  int in = open(path, O_RDONLY | O_CLOEXEC), out = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (in >= 0 && out >= 0) {
    ssize_t n;
    while ((n = read(in, buffer, sizeof buffer)) > 0)
      if (write(out, buffer, n) != n) abort();
    rename(part, copy);
  }
  if (in >= 0) close(in);
  if (out >= 0) close(out);
}

int fsync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  int result = real(fd);
  if (!result) keep(fd);
  return result;
}

int fdatasync(int fd) {
  static int (*real)(int);
  if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
  int result = real(fd);
  if (!result) keep(fd);
  return result;
}
