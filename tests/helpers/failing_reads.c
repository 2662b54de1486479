/* Lets reads fail: preloaded, for libraries that read files themselves.

   FAULT_PATH   part of the paths of the files that fail; unset for none
   FAULT_ERRNO  the number of the error
   FAULT_COUNT  how many reads of the process fail; unset for all */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

static int failed;

static int fails(int file) {
  char link[64], path[4096];
  const char *part = getenv("FAULT_PATH"), *count = getenv("FAULT_COUNT");
  ssize_t length;
  if (!part || !*part || (count && failed >= atoi(count))) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  if (!strstr(path, part)) return 0;
  failed++;
  errno = atoi(getenv("FAULT_ERRNO"));
  return 1;
}

#define WRAP(name, declared, given)                        \
  ssize_t name declared {                                  \
    static ssize_t(*real) declared;                        \
    if (!real) *(void **)&real = dlsym(RTLD_NEXT, #name);  \
    return fails(file) ? -1 : real given;                  \
  }

WRAP(read, (int file, void *to, size_t n), (file, to, n))
WRAP(pread, (int file, void *to, size_t n, off_t at), (file, to, n, at))
WRAP(pread64, (int file, void *to, size_t n, off64_t at), (file, to, n, at))
WRAP(readv, (int file, const struct iovec *to, int n), (file, to, n))
WRAP(preadv, (int file, const struct iovec *to, int n, off_t at),
     (file, to, n, at))
