/* Data directories that are refused: each with its own status and a message that names the file, and nothing is created. */
#include <unistd.h>

#include "common.h"

int main(int argc, char **argv) {
  CHECK(argc == 2);
  const char *base = argv[1];
  char path[1024];
  snprintf(path, sizeof path, "%s/missing", base);
  tenure_config c;
  OK(tenure_config_new(&c, err));
  OK(tenure_config_set(c, text("data_dir"), text(path), err));
  OK(tenure_config_set(c, text("data_dir_create"), text("false"), err));
  tenure_node n = {77};
  tenure_error e;
  const int32_t lost = tenure_node_open(c, &n, &e);
  CHECK(lost == TENURE_DATA_LOST);
  CHECK(n.id == 77 && strstr(e.message, path) != NULL && access(path, F_OK) != 0);
  /* Below one that does not exist. */
  snprintf(path, sizeof path, "%s/missing/deeper", base);
  OK(tenure_config_set(c, text("data_dir"), text(path), err));
  const int32_t deeper = tenure_node_open(c, &n, &e);
  CHECK(deeper == TENURE_IO && e.os_errno == ENOENT && n.id == 77);
  /* A file in its place. */
  snprintf(path, sizeof path, "%s/file", base);
  FILE *f = fopen(path, "w");
  CHECK(f != NULL && fputs("x", f) >= 0 && fclose(f) == 0);
  OK(tenure_config_set(c, text("data_dir"), text(path), err));
  const int32_t file = tenure_node_open(c, &n, &e);
  CHECK(file >= 200 && file < 300 && n.id == 77 && strstr(e.message, path) != NULL);
  /* Somebody else's directory. */
  OK(tenure_config_set(c, text("data_dir"), text(base), err));
  const int32_t foreign = tenure_node_open(c, &n, &e);
  CHECK(foreign >= 200 && foreign < 300 && n.id == 77 && strstr(e.message, base) != NULL);
  /* One that is open already. */
  snprintf(path, sizeof path, "%s/data", base);
  OK(tenure_config_set(c, text("data_dir"), text(path), err));
  OK(tenure_config_set(c, text("data_dir_create"), text("true"), err));
  tenure_node first;
  OK(tenure_node_open(c, &first, err));
  CHECK_STATUS(TENURE_DATA_LOCKED, tenure_node_open(c, &n, err));
  CHECK(n.id == 77);
  OK(tenure_node_close(first, TENURE_FOREVER, err));
  tenure_node_free(first);
  /* Of another node. */
  OK(tenure_config_set(c, text("node_id"), text("somebody-else"), err));
  CHECK_STATUS(TENURE_DATA_FOREIGN, tenure_node_open(c, &n, err));
  CHECK(n.id == 77);
  tenure_config_free(c);
  return 0;
}
