// The server's own log: lines with a time on stderr, or on the file that --logfile names.
#pragma once

#include <string>

namespace kvgate {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Sends the log to `path` from now on; false when it cannot be opened.
bool log_to_file(const std::string& path);

// Writes one line. Any thread.
void log_line(LogLevel level, const std::string& text);

}  // namespace kvgate
