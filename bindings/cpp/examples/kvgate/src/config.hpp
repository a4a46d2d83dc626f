// The server's settings: `--name value` on the command line, CONFIG GET and CONFIG SET at run time.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

namespace kvgate {

class Config {
 public:
  Config();

  // Reads `--name value` pairs. False with a message for the user when one is wrong.
  bool parse(int argc, char** argv, std::string& error);
  // Sets one at run time; refuses those that only the start can set.
  bool set(const std::string& name, const std::string& value, std::string& error);
  // Checks a value without setting it, and says whether it may be set at run time.
  bool check(const std::string& name, const std::string& value, bool at_start,
             std::string& error) const;

  std::string text(const std::string& name) const;
  long number(const std::string& name) const;
  bool flag(const std::string& name) const;
  // The settings whose name matches a shell pattern, with their values.
  std::vector<std::pair<std::string, std::string>> matching(const std::string& pattern) const;

  // The pairs given by `--tenure name=value`, which are the library's.
  const std::vector<std::pair<std::string, std::string>>& tenure() const { return tenure_; }

  static std::string usage();

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::string> values_;
  std::vector<std::pair<std::string, std::string>> tenure_;
};

}  // namespace kvgate
