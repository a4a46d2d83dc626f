/* The library loaded, used and unloaded by hand, several times, with threads of the host's that have used it and end afterwards.
 * Usage: dlopen LIBRARY. Not linked with it. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "tenure.h"

#define CHECK(condition)                                                        \
  do {                                                                          \
    if (!(condition)) {                                                         \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);   \
      exit(1);                                                                  \
    }                                                                           \
  } while (0)

static const char *path;
static pthread_barrier_t used, unloaded;

/* Function pointers come out of dlsym() through an object pointer, the way POSIX says. */
static void find(void *lib, const char *name, void *out_function) {
  void *found = dlsym(lib, name);
  if (!found) fprintf(stderr, "%s: %s\n", name, dlerror());
  CHECK(found != NULL);
  *(void **)out_function = found;
}

static void use(void *lib) {
  __typeof__(tenure_node_open) *open;
  __typeof__(tenure_node_session) *session;
  __typeof__(tenure_session_try_acquire) *acquire;
  __typeof__(tenure_node_close) *close;
  __typeof__(tenure_node_free) *release;
  find(lib, "tenure_node_open", &open);
  find(lib, "tenure_node_session", &session);
  find(lib, "tenure_session_try_acquire", &acquire);
  find(lib, "tenure_node_close", &close);
  find(lib, "tenure_node_free", &release);
  const tenure_config none = {0};
  const tenure_bytes key = {"k", 1};
  tenure_node n;
  tenure_session s;
  uint64_t token;
  CHECK(open(none, &n, NULL) == TENURE_OK && session(n, &s, NULL) == TENURE_OK);
  CHECK(acquire(s, key, NULL, &token, NULL) == TENURE_OK);
  CHECK(close(n, TENURE_FOREVER, NULL) == TENURE_OK);
  release(n);
}

static void *other_thread(void *lib) {
  use(lib);
  pthread_barrier_wait(&used);
  pthread_barrier_wait(&unloaded);
  return NULL;
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  path = argv[1];
  CHECK(pthread_barrier_init(&used, NULL, 2) == 0 && pthread_barrier_init(&unloaded, NULL, 2) == 0);
  for (int i = 0; i < 10; i++) {
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!lib) fprintf(stderr, "%s\n", dlerror());
    CHECK(lib != NULL);
    pthread_t t;
    CHECK(pthread_create(&t, NULL, other_thread, lib) == 0);
    use(lib);
    pthread_barrier_wait(&used);
    CHECK(dlclose(lib) == 0);
    pthread_barrier_wait(&unloaded);
    CHECK(pthread_join(t, NULL) == 0);
  }
  return 0;
}
