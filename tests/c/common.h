/* What the C test programs share. A program that finds a fault says where and ends with status 1. */
#ifndef TENURE_TEST_COMMON_H
#define TENURE_TEST_COMMON_H

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tenure.h"

#define CHECK(condition)                                                             \
  do {                                                                               \
    if (!(condition)) {                                                              \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);        \
      exit(1);                                                                       \
    }                                                                                \
  } while (0)

#define CHECK_STATUS(want, call)                                                                                          \
  do {                                                                                                                    \
    tenure_error check_err;                                                                                               \
    tenure_error *const err = &check_err;                                                                                 \
    const int32_t check_got = (call);                                                                                     \
    if (check_got != (want)) {                                                                                            \
      fprintf(stderr, "%s:%d: %s\n  gave %s (%s), not %s\n", __FILE__, __LINE__, #call, tenure_status_name(check_got),     \
              check_err.message, tenure_status_name(want));                                                 \
      exit(1);                                                                                                            \
    }                                                                                                                     \
  } while (0)

/* Calls that succeed; they name `err`. */
#define OK(call) CHECK_STATUS(TENURE_OK, call)

static inline tenure_bytes text(const char *s) {
  tenure_bytes b;
  b.ptr = s;
  b.len = strlen(s);
  return b;
}

static inline uint64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000u + (uint64_t)t.tv_nsec / 1000000u;
}

/* Polls until the condition holds; a bound, not a delay. */
#define EVENTUALLY(condition)                                                                       \
  do {                                                                                              \
    const uint64_t eventually_end = now_ms() + 20000;                                               \
    const struct timespec eventually_pause = {0, 1000000};                                          \
    while (!(condition)) {                                                                          \
      if (now_ms() > eventually_end) {                                                              \
        fprintf(stderr, "%s:%d: not so within 20 s: %s\n", __FILE__, __LINE__, #condition);         \
        exit(1);                                                                                    \
      }                                                                                             \
      nanosleep(&eventually_pause, NULL);                                                           \
    }                                                                                               \
  } while (0)

/* Where open_node() keeps durable nodes, each in a folder of its own; NULL: in memory. */
static const char *data_base;

/* A node with these settings: name, value, ..., NULL. */
static inline tenure_node open_node(const char *name, ...) {
  tenure_config config;
  tenure_node node = {0};
  va_list rest;
  OK(tenure_config_new(&config, err));
  va_start(rest, name);
  while (name != NULL) {
    const char *value = va_arg(rest, const char *);
    OK(tenure_config_set(config, text(name), text(value), err));
    name = va_arg(rest, const char *);
  }
  va_end(rest);
  if (data_base) {
    static int count;
    char path[1024];
    snprintf(path, sizeof path, "%s/node%d", data_base, count++);
    OK(tenure_config_set(config, text("data_dir"), text(path), err));
  }
  OK(tenure_node_open(config, &node, err));
  tenure_config_free(config);
  return node;
}

static inline tenure_session session_of(tenure_node node) {
  tenure_session session = {0};
  OK(tenure_node_session(node, &session, err));
  return session;
}

#endif
