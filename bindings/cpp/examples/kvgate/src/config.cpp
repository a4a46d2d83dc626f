#include "config.hpp"

#include <fnmatch.h>

#include <cstdlib>

#include "resp.hpp"

namespace kvgate {

namespace {

struct Setting {
  const char* name;
  const char* initial;
  // "yes|no" and other choices, "MIN..MAX" for a whole number, "" for any text.
  const char* accepts;
  bool at_run_time;
  const char* help;
};

constexpr Setting kSettings[] = {
    {"bind", "127.0.0.1", "", false, "address to listen on"},
    {"port", "6666", "0..65535", false, "port to listen on; 0 lets the system choose"},
    {"dir", "kvgate-data", "", false, "directory for the database, its lease and its topology"},
    {"workers", "2", "1..64", false, "threads that serve data commands"},
    {"daemonize", "no", "yes|no", false, "go to the background"},
    {"pidfile", "", "", false, "file to write the process id to"},
    {"logfile", "", "", false, "file to log to; empty for stderr"},
    {"cluster-enabled", "no", "yes|no", false, "answer CLUSTER and CLUSTERX, redirect foreign slots"},
    {"sync-writes", "no", "yes|no", false, "fsync the write-ahead log before acknowledging"},
    {"master-lease-mode", "disabled", "disabled|log-only|block-write", true,
     "what a write without a lease meets"},
    {"master-lease-error-prefix", "ERR", "", true, "first word of the error for a blocked write"},
    {"master-lease-trust-receipt", "no", "yes|no", false,
     "weaker: accept heartbeats without a nonce, counted from their receipt"},
    {"master-lease-key", "", "", false,
     "hold office by the library's own lease on this lock, not by heartbeats"},
    {"master-lease-ttl-ms", "10000", "100..86400000", false, "length of that lease"},
    {"master-lease-gate-reads", "no", "yes|no", true, "a master answers reads only while it holds the lease"},
    {"min-replicas-ack", "0", "0..16", true,
     "acknowledge a write only when this many replicas have confirmed it"},
    {"replica-ack-timeout-ms", "1000", "1..600000", true, "for at most so long"},
    {"election-peers", "", "", false,
     "NAME=HOST:PORT of all servers, this one too, with commas between: who holds master-lease-key is master, and the others "
     "follow it; a name is the node_id of the server's member"},
    {"metrics-port", "0", "0..65535", false, "port for GET /metrics on the same address; 0 for none"},
    // Redis clients and tools ask for these; they are answered and change nothing.
    {"save", "", "", false, "not used"},
    {"appendonly", "no", "yes|no", false, "not used"},
    {"databases", "1", "1..1", false, "one database"},
    {"maxmemory", "0", "0..0", false, "not used"},
};

const Setting* find(const std::string& name) {
  for (const Setting& setting : kSettings) {
    if (name == setting.name) return &setting;
  }
  return nullptr;
}

bool acceptable(const Setting& setting, const std::string& value) {
  const std::string accepts = setting.accepts;
  if (accepts.empty()) return value.find_first_of("\r\n") == std::string::npos;
  const size_t range = accepts.find("..");
  if (range != std::string::npos) {
    int64_t number = 0;
    return parse_int(value, number) && number >= std::atoll(accepts.c_str()) &&
           number <= std::atoll(accepts.c_str() + range + 2);
  }
  return !value.empty() && value.find('|') == std::string::npos &&
         ("|" + accepts + "|").find("|" + value + "|") != std::string::npos;
}

}  // namespace

Config::Config() {
  for (const Setting& setting : kSettings) values_[setting.name] = setting.initial;
}

bool Config::check(const std::string& name, const std::string& value, bool at_start,
                   std::string& error) const {
  const Setting* setting = find(name);
  if (setting == nullptr) {
    error = "no setting has the name '" + name + "'";
    return false;
  }
  if (!at_start && !setting->at_run_time) {
    error = "'" + name + "' can be set at the start only";
    return false;
  }
  if (!acceptable(*setting, value)) {
    error = "'" + value + "' is not acceptable for '" + name + "'";
    if (*setting->accepts != '\0') error += std::string(", which takes ") + setting->accepts;
    return false;
  }
  return true;
}

bool Config::parse(int argc, char** argv, std::string& error) {
  for (int i = 1; i < argc; i += 2) {
    const std::string name = argv[i];
    if (name.rfind("--", 0) != 0 || i + 1 >= argc) {
      error = "expected --name value, found '" + name + "'";
      return false;
    }
    if (name == "--tenure") {
      const std::string pair = argv[i + 1];
      const size_t equals = pair.find('=');
      if (equals == std::string::npos) {
        error = "--tenure takes NAME=VALUE, found '" + pair + "'";
        return false;
      }
      tenure_.emplace_back(pair.substr(0, equals), pair.substr(equals + 1));
      continue;
    }
    if (!check(name.substr(2), argv[i + 1], true, error)) return false;
    values_[name.substr(2)] = argv[i + 1];
  }
  return true;
}

bool Config::set(const std::string& name, const std::string& value, std::string& error) {
  if (!check(name, value, false, error)) return false;
  std::lock_guard<std::mutex> guard(mutex_);
  values_[name] = value;
  return true;
}

std::string Config::text(const std::string& name) const {
  std::lock_guard<std::mutex> guard(mutex_);
  return values_.at(name);
}

long Config::number(const std::string& name) const { return std::atol(text(name).c_str()); }

bool Config::flag(const std::string& name) const { return text(name) == "yes"; }

std::vector<std::pair<std::string, std::string>> Config::matching(
    const std::string& pattern) const {
  std::vector<std::pair<std::string, std::string>> found;
  std::lock_guard<std::mutex> guard(mutex_);
  for (const auto& [name, value] : values_) {
    if (fnmatch(pattern.c_str(), name.c_str(), 0) == 0) found.emplace_back(name, value);
  }
  return found;
}

std::string Config::usage() {
  std::string text = "kvgate: a key-value server whose writes pass a Tenure gate\n\nSettings:\n";
  for (const Setting& setting : kSettings) {
    text += std::string("  --") + setting.name + " " +
            (*setting.accepts != '\0' ? setting.accepts : "TEXT") + "\n      " + setting.help;
    if (*setting.initial != '\0') text += std::string(" [") + setting.initial + "]";
    text += '\n';
  }
  text += "  --tenure NAME=VALUE\n      a setting of the library's node (node_id, listen, peers, ...); as often as needed\n";
  return text;
}

}  // namespace kvgate
