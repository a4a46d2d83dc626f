// kvgate: a key-value server on RocksDB that speaks RESP2 and asks a Tenure gate at every write.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#include <string>

#include "config.hpp"
#include "log.hpp"
#include "server.hpp"

namespace {

using kvgate::LogLevel;
using kvgate::log_line;

// Goes to the background. Only the background process returns, with the pipe on which it reports
// that it serves; the process that was started waits for that and exits.
int go_to_background() {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return -1;
  const pid_t child = fork();
  if (child < 0) return -1;
  if (child > 0) {
    close(report[1]);
    char ready = 0;
    const bool good = read(report[0], &ready, 1) == 1 && ready == 'r';
    _exit(good ? 0 : 1);
  }
  close(report[0]);
  setsid();
  // A second fork, so that the server cannot come by a terminal again.
  const pid_t grandchild = fork();
  if (grandchild != 0) _exit(grandchild > 0 ? 0 : 1);
  return report[1];
}

void detach_from_terminal() {
  const int null = open("/dev/null", O_RDWR);
  if (null < 0) return;
  for (int fd = 0; fd <= 2; ++fd) dup2(null, fd);
  if (null > 2) close(null);
}

bool write_pid(const std::string& path) {
  if (path.empty()) return true;
  std::ofstream out(path, std::ios::trunc);
  out << getpid() << "\n";
  return static_cast<bool>(out.flush());
}

// All threads inherit the mask, so that signals reach the main thread only, by sigwait.
sigset_t block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

int fail(const std::string& error) {
  log_line(LogLevel::kError, error);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::string(argv[1]) == "--help") {
    std::fputs(kvgate::Config::usage().c_str(), stdout);
    return 0;
  }
  kvgate::Config config;
  std::string error;
  if (!config.parse(argc, argv, error)) {
    std::fprintf(stderr, "kvgate: %s (--help lists the settings)\n", error.c_str());
    return 2;
  }
  const std::string logfile = config.text("logfile");
  if (!logfile.empty() && !kvgate::log_to_file(logfile)) {
    std::fprintf(stderr, "kvgate: cannot open %s: %s\n", logfile.c_str(), strerror(errno));
    return 1;
  }
  const sigset_t signals = block_signals();
  int report = -1;
  if (config.flag("daemonize")) {
    report = go_to_background();
    if (report < 0) return fail(std::string("cannot go to the background: ") + strerror(errno));
  }
  kvgate::Server server(config);
  if (!server.start(error)) {
    server.stop();
    return fail(error);
  }
  const std::string pidfile = config.text("pidfile");
  if (!write_pid(pidfile)) {
    server.stop();
    return fail("cannot write " + pidfile);
  }
  log_line(LogLevel::kInfo, "ready on port " + std::to_string(server.port()));
  if (report >= 0) {
    detach_from_terminal();
    const ssize_t told = write(report, "r", 1);
    static_cast<void>(told);
    close(report);
  }

  int received = 0;
  do {
    sigwait(&signals, &received);
  } while (received == SIGHUP);
  log_line(LogLevel::kInfo, "shutting down");
  server.stop();
  if (!pidfile.empty()) unlink(pidfile.c_str());
  return 0;
}
