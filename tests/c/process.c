/* The library as a guest in a process: its threads, its descriptors, fork(), and an exit without a close.
 * Usage: process threads | fds DIRECTORY | fork | exit */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common.h"
#include "tenure_gate.h"

static const tenure_config none = {0};

static void on_line(void *user, int32_t level, tenure_bytes target, tenure_bytes message) {
  (void)user, (void)level, (void)target, (void)message;
}

static void on_event(void *user, const tenure_event *event) { (void)user, (void)event; }

static void on_done(void *user, int32_t status, uint64_t token, const tenure_error *e) {
  (void)status, (void)token, (void)e;
  __atomic_store_n((int *)user, 1, __ATOMIC_SEQ_CST);
}

/* Everything that starts a thread or opens a descriptor. */
static tenure_node busy_node(const char *data_dir, const char *delivery) {
  tenure_node node = data_dir ? open_node("delivery", delivery, "data_dir", data_dir, NULL) : open_node("delivery", delivery, NULL);
  tenure_gate gate;
  const tenure_gate_cell *cell;
  uint64_t token;
  OK(tenure_log_set(TENURE_LOG_LEVEL_TRACE, on_line, NULL, err));
  OK(tenure_node_subscribe(node, on_event, NULL, NULL, err));
  OK(tenure_gate_open(node, text("g"), none, &gate, err));
  OK(tenure_gate_hold(gate, text("office"), 10000, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  OK(tenure_session_acquire(session_of(node), text("k"), NULL, TENURE_FOREVER, &token, err));
  EVENTUALLY(tenure_gate_check(cell, NULL) == TENURE_GATE_GRANTED);
  return node;
}

static uint64_t field(const char *path, const char *name) {
  char line[256];
  uint64_t value = 0;
  FILE *f = fopen(path, "r");
  CHECK(f != NULL);
  while (fgets(line, sizeof line, f))
    if (strncmp(line, name, strlen(name)) == 0) value = strtoull(line + strlen(name), NULL, 16);
  fclose(f);
  return value;
}

static int threads(void) {
  /* The handlers of a host must never run on a thread of the library's. */
  const uint64_t own_mask = field("/proc/self/status", "SigBlk:");
  tenure_node node = busy_node(NULL, "thread");
  CHECK(field("/proc/self/status", "SigBlk:") == own_mask);
  int others = 0;
  DIR *dir = opendir("/proc/self/task");
  CHECK(dir != NULL);
  for (struct dirent *d; (d = readdir(dir));) {
    if (d->d_name[0] == '.' || atoi(d->d_name) == getpid()) continue;
    char path[512], name[64] = "";
    snprintf(path, sizeof path, "/proc/self/task/%s/comm", d->d_name);
    FILE *f = fopen(path, "r");
    CHECK(f != NULL && fgets(name, sizeof name, f) != NULL);
    fclose(f);
    /* The kernel keeps 15 characters; a longer name would have been cut. */
    CHECK(strncmp(name, "tenure-", 7) == 0 && strlen(name) <= 16);
    snprintf(path, sizeof path, "/proc/self/task/%s/status", d->d_name);
    const uint64_t blocked = field(path, "SigBlk:");
    for (int s = 1; s <= 64; s++) {
      if (s == SIGKILL || s == SIGSTOP || s == 32 || s == 33) continue;
      CHECK(blocked >> (s - 1) & 1);
    }
    others++;
  }
  closedir(dir);
  CHECK(others >= 3 && others <= 6);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}

static int fds(const char *directory) {
  /* As a daemon does it: 0 to 2 are closed, and the next file that the host opens takes the place of its standard error. */
  const int out = fcntl(2, F_DUPFD_CLOEXEC, 100);
  CHECK(out >= 100);
  char path[1024];
  close(0), close(1), close(2);
  bool before[1024];
  for (int fd = 0; fd < 1024; fd++) before[fd] = fcntl(fd, F_GETFD) >= 0;
  snprintf(path, sizeof path, "%s/data", directory);
  tenure_node node = busy_node(path, "fd");
  int of_the_library = 0;
  DIR *dir = opendir("/proc/self/fd");
  CHECK(dir != NULL);
  for (struct dirent *d; (d = readdir(dir));) {
    const int fd = atoi(d->d_name);
    if (d->d_name[0] == '.' || fd == dirfd(dir) || (fd < 1024 && before[fd])) continue;
    const int flags = fcntl(fd, F_GETFD);
    if (fd < 3 || flags < 0 || !(flags & FD_CLOEXEC)) {
      dprintf(out, "descriptor %d has flags %d\n", fd, flags);
      return 1;
    }
    of_the_library++;
  }
  closedir(dir);
  if (of_the_library < 2) {
    dprintf(out, "only %d descriptors of the library's were seen\n", of_the_library);
    return 1;
  }
  snprintf(path, sizeof path, "%s/victim", directory);
  int victim = -1;
  while (victim != 2) {
    victim = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (victim < 0 || victim > 2) return 1;
  }
#ifdef TENURE_ENABLE_INJECT
  /* Not even of a panic. */
  tenure_error e;
  tenure_test_inject(1, 0);
  if (tenure_node_session(node, NULL, &e) != TENURE_PANIC) {
    dprintf(out, "no panic: %s\n", e.message);
    return 1;
  }
#endif
  tenure_node_close(node, TENURE_FOREVER, NULL);
  tenure_node_free(node);
  struct stat s;
  if (stat(path, &s) != 0 || s.st_size != 0) {
    dprintf(out, "the library wrote %ld bytes into the host's file\n", (long)s.st_size);
    return 1;
  }
  return 0;
}

static int in_child(tenure_node node, tenure_session session, tenure_gate gate, const tenure_gate_cell *cell) {
  tenure_gate_permit p;
  uint64_t token = 42;
  char buf[64];
  size_t needed;
  const struct tenure_gate_cell *again;
  CHECK_STATUS(TENURE_FORKED, tenure_session_try_acquire(session, text("mine"), NULL, &token, err));
  CHECK_STATUS(TENURE_FORKED, tenure_session_acquire(session, text("k"), NULL, 10, &token, err));
  CHECK_STATUS(TENURE_FORKED, tenure_session_release_all(session, NULL, err));
  CHECK_STATUS(TENURE_FORKED, tenure_session_close(session, err));
  CHECK_STATUS(TENURE_FORKED, tenure_node_id(node, buf, sizeof buf, &needed, err));
  CHECK_STATUS(TENURE_FORKED, tenure_node_status(node, buf, sizeof buf, &needed, err));
  CHECK_STATUS(TENURE_FORKED, tenure_node_close(node, TENURE_FOREVER, err));
  CHECK_STATUS(TENURE_FORKED, tenure_gate_cell_of(gate, &again, err));
  CHECK_STATUS(TENURE_FORKED, tenure_gate_drain(gate, 10, err));
  CHECK(token == 42);
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_FORKED && tenure_gate_check(cell, NULL) == TENURE_GATE_FORKED);
  tenure_session_release_later(session, text("k"), 1);
  tenure_gate_free(gate);
  tenure_session_free(session);
  tenure_node_free(node);
  /* One of its own works, threads, log and all. */
  tenure_node own = busy_node(NULL, "thread");
  int done = 0;
  OK(tenure_session_acquire_async(session_of(own), text("async"), NULL, 0, on_done, &done, NULL, err));
  EVENTUALLY(__atomic_load_n(&done, __ATOMIC_SEQ_CST));
  OK(tenure_node_close(own, TENURE_FOREVER, err));
  tenure_node_free(own);
  return 0;
}

static void *hammer(void *user) {
  /* Keeps the library's locks busy, so that the fork meets them in every state. */
  tenure_node node = *(tenure_node *)user;
  for (;;) {
    tenure_session s;
    uint64_t token;
    if (tenure_session_open(node, text("hammer"), 10000, &s, NULL) != TENURE_OK) return NULL;
    tenure_session_try_acquire(s, text("h"), NULL, &token, NULL);
    tenure_session_close(s, NULL);
    tenure_session_free(s);
  }
}

static int forks(void) {
  tenure_node node = busy_node(NULL, "thread"), other = open_node(NULL);
  tenure_session session = session_of(node);
  tenure_gate gate;
  const tenure_gate_cell *cell;
  tenure_gate_permit p;
  uint64_t nonce, token;
  tenure_heartbeat h = TENURE_HEARTBEAT_INIT;
  tenure_heartbeat_reply r = TENURE_HEARTBEAT_REPLY_INIT;
  OK(tenure_gate_open(node, text("forked"), none, &gate, err));
  OK(tenure_gate_cell_of(gate, &cell, err));
  OK(tenure_gate_next_nonce(gate, &nonce, err));
  h.epoch = 1, h.ttl_ms = 60000, h.nonce = nonce, h.flags = TENURE_HEARTBEAT_NONCE;
  OK(tenure_gate_heartbeat(gate, &h, &r, err));
  CHECK(r.accepted && tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED && tenure_gate_finish(&p) == TENURE_GATE_HELD);

  pthread_t t;
  CHECK(pthread_create(&t, NULL, hammer, &other) == 0);
  for (int i = 0; i < 20; i++) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(30);
      _exit(in_child(node, session, gate, cell));
    }
    int how;
    CHECK(waitpid(child, &how, 0) == child);
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 0) {
      fprintf(stderr, "child %d ended with %#x\n", i, (unsigned)how);
      return 1;
    }
  }
  /* The parent has noticed nothing. */
  CHECK(tenure_gate_enter(cell, &p) == TENURE_GATE_GRANTED && tenure_gate_finish(&p) == TENURE_GATE_HELD);
  OK(tenure_session_try_acquire(session, text("mine"), NULL, &token, err));
  OK(tenure_node_close(other, TENURE_FOREVER, err));
  CHECK(pthread_join(t, NULL) == 0);
  tenure_node_free(other);
  OK(tenure_node_close(node, TENURE_FOREVER, err));
  tenure_node_free(node);
  return 0;
}

static int exits(void) {
  for (int i = 0; i < 20; i++) {
    const pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
      alarm(30);
      tenure_node node = busy_node(NULL, "thread"), other = open_node(NULL);
      pthread_t t;
      CHECK(pthread_create(&t, NULL, hammer, &other) == 0);
      int done = 0;
      OK(tenure_session_acquire_async(session_of(node), text("k2"), NULL, 0, on_done, &done, NULL, err));
      if (i % 2)
        exit(7);
      else
        quick_exit(7);
    }
    int how;
    CHECK(waitpid(child, &how, 0) == child);
    if (!WIFEXITED(how) || WEXITSTATUS(how) != 7) {
      fprintf(stderr, "child %d ended with %#x\n", i, (unsigned)how);
      return 1;
    }
  }
  return 0;
}

int main(int argc, char **argv) {
  CHECK(argc >= 2);
  if (strcmp(argv[1], "threads") == 0) return threads();
  if (strcmp(argv[1], "fds") == 0 && argc == 3) return fds(argv[2]);
  if (strcmp(argv[1], "fork") == 0) return forks();
  if (strcmp(argv[1], "exit") == 0) return exits();
  return 2;
}
