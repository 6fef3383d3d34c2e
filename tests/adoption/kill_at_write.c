/* Kills the process with SIGKILL at the n-th time that the object store is synced to the disk: before the sync, when the
 * write is not yet durable, or after it, when it is durable and not yet acknowledged. Loaded with LD_PRELOAD by
 * test_every_write.py.
 *
 *   KILL_ARMED   a file: syncs count from the moment that it exists
 *   KILL_AT      n, from 1; 0 only counts
 *   KILL_WHEN    before | after
 *   KILL_COUNT   a file that the count is written to
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long count;
static char armed[4096], counted[4096];
static long at;
static int after;

static void copy(char *to, const char *name) {
  const char *value = getenv(name);
  if (value) strncpy(to, value, 4095);
}

__attribute__((constructor)) static void begin(void) {
  copy(armed, "KILL_ARMED");
  copy(counted, "KILL_COUNT");
  at = getenv("KILL_AT") ? atol(getenv("KILL_AT")) : 0;
  after = getenv("KILL_WHEN") && strcmp(getenv("KILL_WHEN"), "after") == 0;
  /* Only this process, not those that it starts. */
  unsetenv("LD_PRELOAD");
}

static int is_store(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = 0;
  return strstr(path, "/store.db") != NULL;
}

static int sync_with(const char *name, int fd) {
  int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
  if (!armed[0] || !is_store(fd) || access(armed, F_OK) != 0) return real(fd);
  long n = atomic_fetch_add(&count, 1) + 1;
  int file = open(counted, O_WRONLY | O_CREAT | O_TRUNC, 0600);
  if (file >= 0) {
    dprintf(file, "%ld\n", n);
    close(file);
  }
  if (n == at && !after) kill(getpid(), SIGKILL);
  int result = real(fd);
  if (n == at && after) kill(getpid(), SIGKILL);
  return result;
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
