// Commands: the table, and how one is run.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "connection.hpp"
#include "event_loop.hpp"
#include "storage.hpp"

namespace kvgate {

class Server;

// What a command's function is given. It appends exactly one reply to `out`, or none after a failed
// read, which fails the unit. A writing command puts its writes into `unit`; its reply is sent only
// if the unit is acknowledged.
struct Call {
  Server& server;
  Connection& connection;
  const Args& args;
  Unit& unit;
  std::string& out;
};

enum CommandFlag : uint32_t {
  kReads = 1,
  kWrites = 2,
  kControlLane = 4,  // served off the worker pool
  kWorkerLane = 8,
  kNotInMulti = 16,
};

struct CommandSpec {
  const char* name;
  int arity;  // counts the name; negative: at least that many
  uint32_t flags;
  int first_key;  // 0: none
  int last_key;   // negative: counted from the last argument
  int key_step;
  void (*run)(Call&);
};

// The commands of each file.
const std::vector<CommandSpec>& string_commands();
const std::vector<CommandSpec>& collection_commands();
const std::vector<CommandSpec>& server_commands();
const std::vector<CommandSpec>& cluster_commands();

// The table's row for a name in any case; nullptr when there is none.
const CommandSpec* find_command(std::string_view name);
std::vector<const CommandSpec*> all_commands();

// Where the request has to be served.
Lane lane_of(const Connection& connection, const Args& args);

// Runs one request and appends its reply to the connection's output.
void run_command(Server& server, Connection& connection, const Args& args);

// Appends the reply to a write: `reply` when it is acknowledged, an error that says why not otherwise.
void reply_write(Server& server, const WriteOutcome& outcome, std::string_view reply,
                 std::string& out);

}  // namespace kvgate
