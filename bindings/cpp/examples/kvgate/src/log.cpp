#include "log.hpp"

#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

namespace kvgate {

namespace {

std::atomic<int> log_fd{STDERR_FILENO};

const char* name_of(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "";
}

}  // namespace

bool log_to_file(const std::string& path) {
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
  if (fd < 0) return false;
  log_fd.store(fd);
  return true;
}

void log_line(LogLevel level, const std::string& text) {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char head[64];
  const size_t length = strftime(head, sizeof head, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(head + length, sizeof head - length, ".%03ldZ %d ", now.tv_nsec / 1000000,
           static_cast<int>(getpid()));
  std::string line = head;
  line += name_of(level);
  line += ' ';
  line += text;
  line += '\n';
  // One write keeps lines of several threads whole. A log that cannot be written stops nothing.
  const ssize_t written = ::write(log_fd.load(), line.data(), line.size());
  static_cast<void>(written);
}

}  // namespace kvgate
