// Commands on the connection and on the server itself.
#include <arpa/inet.h>
#include <fcntl.h>
#include <sys/socket.h>

#include <chrono>
#include <cstdlib>
#include <thread>

#include "commands.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

std::string peer_address(int socket) {
  sockaddr_in peer{};
  socklen_t length = sizeof peer;
  char text[INET_ADDRSTRLEN] = "";
  if (getpeername(socket, reinterpret_cast<sockaddr*>(&peer), &length) == 0) inet_ntop(AF_INET, &peer.sin_addr, text, sizeof text);
  return text;
}

void ping(Call& call) {
  if (call.args.size() > 1) {
    reply_bulk(call.out, call.args[1]);
  } else {
    reply_simple(call.out, "PONG");
  }
}

void echo(Call& call) { reply_bulk(call.out, call.args[1]); }

void quit(Call& call) {
  reply_simple(call.out, "OK");
  call.connection.closing = true;
}

void hello(Call& call) {
  if (call.args.size() > 1) {
    if (call.args[1] != "2" && call.args[1] != "3") {
      reply_error(call.out, "NOPROTO unsupported protocol version");
      return;
    }
    call.connection.protocol = call.args[1] == "3" ? Protocol::kResp3 : Protocol::kResp2;
  }
  for (size_t i = 2; i + 1 < call.args.size(); i += 2) {
    if (!equals_ignoring_case(call.args[i], "setname")) {
      reply_error(call.out, "ERR HELLO takes SETNAME only: this server has no passwords");
      return;
    }
    call.connection.name = call.args[i + 1];
  }
  reply_map(call.out, 7, call.connection.protocol);
  reply_bulk(call.out, "server");
  reply_bulk(call.out, "kvgate");
  reply_bulk(call.out, "version");
  reply_bulk(call.out, "7.0.0");
  reply_bulk(call.out, "proto");
  reply_integer(call.out, static_cast<int>(call.connection.protocol));
  reply_bulk(call.out, "id");
  reply_integer(call.out, static_cast<int64_t>(call.connection.id));
  reply_bulk(call.out, "mode");
  reply_bulk(call.out, call.server.cluster_enabled() ? "cluster" : "standalone");
  reply_bulk(call.out, "role");
  reply_bulk(call.out, call.server.gate().role() == Role::kMaster ? "master" : "replica");
  reply_bulk(call.out, "modules");
  reply_array(call.out, 0);
}

void client(Call& call) {
  const std::string what = lowered(call.args[1]);
  if (what == "setname" && call.args.size() == 3) {
    call.connection.name = call.args[2];
    reply_simple(call.out, "OK");
  } else if (what == "getname") {
    reply_bulk(call.out, call.connection.name);
  } else if (what == "id") {
    reply_integer(call.out, static_cast<int64_t>(call.connection.id));
  } else if (what == "setinfo") {
    reply_simple(call.out, "OK");
  } else {
    reply_error(call.out, "ERR unknown subcommand or wrong number of arguments for CLIENT");
  }
}

void describe_command(const CommandSpec& spec, std::string& out) {
  reply_array(out, 6);
  reply_bulk(out, spec.name);
  reply_integer(out, spec.arity);
  reply_array(out, 1);
  reply_simple(out, (spec.flags & kWrites) != 0 ? "write"
                    : (spec.flags & kReads) != 0 ? "readonly"
                                                 : "admin");
  reply_integer(out, spec.first_key);
  reply_integer(out, spec.last_key);
  reply_integer(out, spec.key_step);
}

void command(Call& call) {
  const std::string what = call.args.size() > 1 ? lowered(call.args[1]) : "";
  const std::vector<const CommandSpec*> all = all_commands();
  if (what == "count") {
    reply_integer(call.out, static_cast<int64_t>(all.size()));
  } else if (what == "docs") {
    reply_map(call.out, 0, call.connection.protocol);
  } else if (what.empty()) {
    reply_array(call.out, all.size());
    for (const CommandSpec* spec : all) describe_command(*spec, call.out);
  } else {
    reply_error(call.out, "ERR COMMAND, COMMAND COUNT and COMMAND DOCS are supported");
  }
}

void config_set(Call& call) {
  if (call.args.size() < 4 || call.args.size() % 2 != 0) {
    reply_error(call.out, "ERR wrong number of arguments for 'config|set' command");
    return;
  }
  std::string error;
  for (size_t i = 2; i < call.args.size(); i += 2) {
    const std::string name = lowered(call.args[i]);
    if (!call.server.config().check(name, call.args[i + 1], false, error)) {
      reply_error(call.out, "ERR CONFIG SET failed: " + error);
      return;
    }
  }
  for (size_t i = 2; i < call.args.size(); i += 2) {
    const std::string name = lowered(call.args[i]);
    if (name == "master-lease-mode" && !call.server.gate().set_mode(call.args[i + 1], error)) {
      reply_error(call.out, "ERR CONFIG SET failed: " + error);
      return;
    }
    call.server.config().set(name, call.args[i + 1], error);
  }
  call.server.read_settings();
  reply_simple(call.out, "OK");
}

void config(Call& call) {
  const std::string what = lowered(call.args[1]);
  if (what == "set") {
    config_set(call);
  } else if (what == "get" && call.args.size() >= 3) {
    std::string values;
    size_t count = 0;
    for (size_t i = 2; i < call.args.size(); ++i) {
      for (const auto& [name, value] : call.server.config().matching(lowered(call.args[i]))) {
        reply_bulk(values, name);
        reply_bulk(values, value);
        ++count;
      }
    }
    reply_map(call.out, count, call.connection.protocol);
    call.out += values;
  } else {
    reply_error(call.out, "ERR CONFIG GET pattern and CONFIG SET name value are supported");
  }
}

void info(Call& call) {
  reply_bulk(call.out, describe(call.server, call.args.size() > 1 ? call.args[1] : ""));
}

void select(Call& call) {
  if (call.args[1] == "0") {
    reply_simple(call.out, "OK");
  } else {
    reply_error(call.out, "ERR DB index is out of range");
  }
}

void role(Call& call) {
  Server& server = call.server;
  if (server.gate().role() == Role::kMaster) {
    reply_array(call.out, 3);
    reply_bulk(call.out, "master");
    reply_integer(call.out, static_cast<int64_t>(server.storage().sequence()));
    reply_array(call.out, 0);
    return;
  }
  reply_array(call.out, 5);
  reply_bulk(call.out, "slave");
  reply_bulk(call.out, server.replica().host());
  reply_integer(call.out, server.replica().port());
  reply_bulk(call.out, server.replica().link_up() ? "connected" : "connect");
  reply_integer(call.out, static_cast<int64_t>(server.storage().sequence()));
}

void replica_of(Call& call) {
  if (call.server.elects()) {
    reply_error(call.out, "ERR the servers elect their master themselves: see election-peers");
    return;
  }
  if (equals_ignoring_case(call.args[1], "no") && equals_ignoring_case(call.args[2], "one")) {
    call.server.set_replica_of("", 0);
    reply_simple(call.out, "OK");
    return;
  }
  int64_t port = 0;
  if (!parse_int(call.args[2], port) || port < 1 || port > 65535) {
    reply_error(call.out, "ERR the master's port is not an integer or out of range");
    return;
  }
  call.server.set_replica_of(call.args[1], static_cast<uint16_t>(port));
  reply_simple(call.out, "OK");
}

// PSYNC next-sequence proof port: what a replica asks its master for. From here on the connection is the feeder's.
void psync(Call& call) {
  FeedRequest request;
  if (!parse_uint(call.args[1], request.next)) {
    reply_error(call.out, "ERR value is not an integer or out of range");
    return;
  }
  if (call.server.gate().role() != Role::kMaster) {
    reply_error(call.out, "ERR not a master");
    return;
  }
  request.proof = call.args[2];
  request.peer = "ip=" + peer_address(call.connection.fd) + ",port=" + std::to_string(std::atoi(call.args[3].c_str()));
  const int socket = fcntl(call.connection.fd, F_DUPFD_CLOEXEC, 3);
  call.connection.broken = true;
  if (socket < 0) return;
  // Both descriptors are of one socket: from now on it waits, and the loop has done with it.
  fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) & ~O_NONBLOCK);
  call.server.feeders().attach(socket, request);
}

// LOGPOSITION: the epoch and the sequence number at which the log ends. Never waits.
void log_position(Call& call) {
  const LogPosition position = call.server.storage().position();
  reply_array(call.out, 2);
  reply_bulk(call.out, std::to_string(position.epoch));
  reply_bulk(call.out, std::to_string(position.sequence));
}

// LASTEPOCH: the epoch under which this connection's last write was acknowledged, to be handed on to what the client writes elsewhere.
void last_epoch(Call& call) { reply_bulk(call.out, std::to_string(call.connection.last_epoch)); }

void metrics(Call& call) { reply_bulk(call.out, describe_metrics(call.server)); }

void debug_sleep(Call& call, const std::string& text) {
  char* end = nullptr;
  const double seconds = std::strtod(text.c_str(), &end);
  if (end == text.c_str() || *end != '\0' || !(seconds >= 0 && seconds <= 3600)) {
    reply_error(call.out, "ERR the time is not a number of seconds or out of range");
    return;
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  reply_simple(call.out, "OK");
}

// DEBUG WAL-EPOCHS from-sequence limit: per batch in the write-ahead log its first sequence number,
// its number of writes, and the epoch stamped into it (nil when there is none).
void debug_wal_epochs(Call& call) {
  uint64_t from = 0;
  uint64_t limit = 0;
  std::vector<LoggedBatch> batches;
  if (!parse_uint(call.args[2], from) || !parse_uint(call.args[3], limit)) {
    reply_error(call.out, "ERR value is not an integer or out of range");
    return;
  }
  const rocksdb::Status status = call.server.storage().read_log(from, limit, batches);
  if (!status.ok()) {
    reply_error(call.out, "ERR the log cannot be read: " + status.ToString());
    return;
  }
  reply_array(call.out, batches.size());
  for (const LoggedBatch& batch : batches) {
    reply_array(call.out, 3);
    reply_integer(call.out, static_cast<int64_t>(batch.sequence));
    reply_integer(call.out, static_cast<int64_t>(batch.count));
    if (batch.epoch) {
      reply_integer(call.out, static_cast<int64_t>(*batch.epoch));
    } else {
      reply_null(call.out, call.connection.protocol);
    }
  }
}

constexpr uint64_t kLongestStallMs = 3'600'000;

void debug(Call& call) {
  const std::string what = lowered(call.args[1]);
  uint64_t milliseconds = 0;
  if (what == "sleep" && call.args.size() == 3) {
    debug_sleep(call, call.args[2]);
  } else if (what == "wal-epochs" && call.args.size() == 4) {
    debug_wal_epochs(call);
  } else if (what == "stall" && call.args.size() == 3 && parse_uint(call.args[2], milliseconds) &&
             milliseconds <= kLongestStallMs) {
    const rocksdb::Status status = call.server.storage().stall(milliseconds);
    if (status.ok()) {
      reply_simple(call.out, "OK");
    } else {
      reply_error(call.out, "ERR cannot stall: " + status.ToString());
    }
  } else {
    reply_error(call.out,
                "ERR DEBUG SLEEP seconds, DEBUG STALL milliseconds and DEBUG WAL-EPOCHS sequence "
                "limit are supported");
  }
}

void compact(Call& call) {
  const rocksdb::Status status = call.server.storage().compact();
  if (status.ok()) {
    reply_simple(call.out, "OK");
  } else {
    reply_error(call.out, "ERR compaction failed: " + status.ToString());
  }
}

void shutdown(Call& call) {
  call.connection.closing = true;
  call.server.request_shutdown();
}

}  // namespace

const std::vector<CommandSpec>& server_commands() {
  static const std::vector<CommandSpec> commands = {
      {"ping", -1, 0, 0, 0, 0, ping},
      {"echo", 2, 0, 0, 0, 0, echo},
      {"quit", -1, kNotInMulti, 0, 0, 0, quit},
      {"hello", -1, kNotInMulti, 0, 0, 0, hello},
      {"client", -2, 0, 0, 0, 0, client},
      {"command", -1, 0, 0, 0, 0, command},
      {"config", -2, kNotInMulti, 0, 0, 0, config},
      {"info", -1, 0, 0, 0, 0, info},
      {"select", 2, 0, 0, 0, 0, select},
      {"role", 1, 0, 0, 0, 0, role},
      {"slaveof", 3, kControlLane | kNotInMulti, 0, 0, 0, replica_of},
      {"replicaof", 3, kControlLane | kNotInMulti, 0, 0, 0, replica_of},
      {"psync", 4, kControlLane | kNotInMulti, 0, 0, 0, psync},
      {"logposition", 1, 0, 0, 0, 0, log_position},
      {"lastepoch", 1, 0, 0, 0, 0, last_epoch},
      {"metrics", 1, 0, 0, 0, 0, metrics},
      {"debug", -2, kWorkerLane | kNotInMulti, 0, 0, 0, debug},
      {"compact", 1, kWorkerLane | kNotInMulti, 0, 0, 0, compact},
      {"shutdown", -1, kControlLane | kNotInMulti, 0, 0, 0, shutdown},
      // Handled before a command is run: they decide how the others are.
      {"evalwrites", -4, kWorkerLane | kNotInMulti, 0, 0, 0, nullptr},
      {"multi", 1, kWorkerLane, 0, 0, 0, nullptr},
      {"exec", 1, kWorkerLane, 0, 0, 0, nullptr},
      {"discard", 1, kWorkerLane, 0, 0, 0, nullptr},
  };
  return commands;
}

}  // namespace kvgate
