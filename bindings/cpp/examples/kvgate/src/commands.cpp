#include "commands.hpp"

#include <optional>
#include <unordered_map>

#include "server.hpp"

namespace kvgate {

namespace {

const std::unordered_map<std::string, const CommandSpec*>& table() {
  static const std::unordered_map<std::string, const CommandSpec*> built = [] {
    std::unordered_map<std::string, const CommandSpec*> map;
    for (const auto* group : {&string_commands(), &collection_commands(), &server_commands(),
                              &cluster_commands()}) {
      for (const CommandSpec& spec : *group) map.emplace(spec.name, &spec);
    }
    return map;
  }();
  return built;
}

void collect_keys(const CommandSpec& spec, const Args& args, std::vector<std::string_view>& keys) {
  if (spec.first_key == 0) return;
  const int count = static_cast<int>(args.size());
  const int last = spec.last_key < 0 ? count + spec.last_key : spec.last_key;
  for (int i = spec.first_key; i <= last && i < count; i += spec.key_step) {
    keys.push_back(args[static_cast<size_t>(i)]);
  }
}

bool arity_fits(const CommandSpec& spec, const Args& args) {
  const int count = static_cast<int>(args.size());
  return spec.arity >= 0 ? count == spec.arity : count >= -spec.arity;
}

// Whether this node serves these keys; appends the redirection or the refusal when it does not.
bool serves(Server& server, const Connection& connection, const std::vector<std::string_view>& keys,
            bool writes, std::string& out) {
  if (!server.cluster_enabled() || keys.empty()) return true;
  const int slot = slot_of(keys.front());
  for (std::string_view key : keys) {
    if (slot_of(key) != slot) {
      reply_error(out, "CROSSSLOT Attempted to access keys that don't hash to the same slot");
      return false;
    }
  }
  ClusterNode owner;
  if (server.cluster().version() < 0) {
    reply_error(out, "CLUSTERDOWN The cluster is not initialized");
    return false;
  }
  if (!server.cluster().owner(slot, owner)) {
    reply_error(out, "CLUSTERDOWN Hash slot not served");
    return false;
  }
  const std::string my_id = server.cluster().my_id();
  if (owner.id == my_id) return true;
  ClusterNode me;
  const bool is_replica_of_owner = server.cluster().me(me) && me.master_id == owner.id;
  if (!writes && connection.reads_from_replica && is_replica_of_owner) return true;
  reply_error(out, "MOVED " + std::to_string(slot) + " " + owner.host + ":" +
                       std::to_string(owner.port));
  return false;
}

Unit& thread_unit(Server& server) {
  thread_local std::optional<Unit> unit;
  if (!unit) unit.emplace(server.storage().db());
  unit->clear();
  return *unit;
}

struct Step {
  const CommandSpec* spec;
  const Args* args;
};

// Runs commands as one unit: their writes are one batch under one permit, and their replies are
// sent only if that batch is acknowledged. In a transaction the replies become one array.
void run_unit(Server& server, Connection& connection, const std::vector<Step>& steps,
              bool transaction) {
  bool writes = false;
  std::vector<std::string_view> keys;
  for (const Step& step : steps) {
    writes = writes || (step.spec->flags & kWrites) != 0;
    collect_keys(*step.spec, *step.args, keys);
  }
  if (!serves(server, connection, keys, writes, connection.out)) return;
  if (writes && server.gate().role() == Role::kReplica) {
    reply_error(connection.out, "READONLY You can't write against a read only replica.");
    return;
  }

  Unit& unit = thread_unit(server);
  std::string reply;
  if (transaction) reply_array(reply, steps.size());
  std::optional<Storage::KeyLocks> locks;
  if (writes) locks.emplace(server.storage(), keys);
  for (const Step& step : steps) {
    Call call{server, connection, *step.args, unit, reply};
    step.spec->run(call);
  }
  if (!unit.read_error().ok()) {
    reply_error(connection.out, "ERR the read failed: " + unit.read_error().ToString());
    return;
  }
  const WriteOutcome outcome = server.storage().commit(unit.batch(), WriteClass::kClient);
  reply_write(server, outcome, reply, connection.out);
}

void run_transaction(Server& server, Connection& connection) {
  if (!connection.in_multi) {
    reply_error(connection.out, "ERR EXEC without MULTI");
    return;
  }
  std::vector<Args> queued;
  queued.swap(connection.queued);
  const bool failed = connection.multi_failed;
  connection.in_multi = false;
  connection.multi_failed = false;
  if (failed) {
    reply_error(connection.out, "EXECABORT Transaction discarded because of previous errors.");
    return;
  }
  std::vector<Step> steps;
  for (const Args& args : queued) steps.push_back({find_command(args[0]), &args});
  run_unit(server, connection, steps, true);
}

// MULTI, EXEC and DISCARD, and everything between the first and the second. True when done.
bool handle_transaction(Server& server, Connection& connection, const CommandSpec* spec,
                        const Args& args) {
  const std::string_view name = spec == nullptr ? "" : spec->name;
  if (name == "exec") {
    run_transaction(server, connection);
    return true;
  }
  if (name == "multi") {
    if (connection.in_multi) {
      reply_error(connection.out, "ERR MULTI calls can not be nested");
    } else {
      connection.in_multi = true;
      reply_simple(connection.out, "OK");
    }
    return true;
  }
  if (name == "discard") {
    if (!connection.in_multi) {
      reply_error(connection.out, "ERR DISCARD without MULTI");
    } else {
      connection.in_multi = connection.multi_failed = false;
      connection.queued.clear();
      reply_simple(connection.out, "OK");
    }
    return true;
  }
  if (!connection.in_multi) return false;
  if (spec != nullptr && (spec->flags & kNotInMulti) != 0) {
    connection.multi_failed = true;
    reply_error(connection.out, "ERR Command not allowed inside a transaction");
    return true;
  }
  connection.queued.push_back(args);
  reply_simple(connection.out, "QUEUED");
  return true;
}

}  // namespace

const CommandSpec* find_command(std::string_view name) {
  const auto found = table().find(lowered(name));
  return found == table().end() ? nullptr : found->second;
}

std::vector<const CommandSpec*> all_commands() {
  std::vector<const CommandSpec*> all;
  for (const auto& [name, spec] : table()) all.push_back(spec);
  return all;
}

Lane lane_of(const Connection& connection, const Args& args) {
  if (connection.in_multi) return Lane::kWorker;
  const CommandSpec* spec = find_command(args[0]);
  if (spec == nullptr) return Lane::kAny;
  if (equals_ignoring_case(spec->name, "clusterx") && args.size() > 1 &&
      equals_ignoring_case(args[1], "drain")) {
    return Lane::kAdmin;
  }
  if ((spec->flags & (kReads | kWrites | kWorkerLane)) != 0) return Lane::kWorker;
  return (spec->flags & kControlLane) != 0 ? Lane::kControl : Lane::kAny;
}

void reply_write(Server& server, const WriteOutcome& outcome, std::string_view reply,
                 std::string& out) {
  switch (outcome.kind) {
    case WriteOutcome::Kind::kAcknowledged:
      out += reply;
      return;
    case WriteOutcome::Kind::kRefused:
      reply_error(out, server.config().text("master-lease-error-prefix") +
                           " master lease expired (" + outcome.detail + ")");
      return;
    case WriteOutcome::Kind::kUncertain:
      reply_error(out,
                  "UNCERTAIN the write may have been applied but is not acknowledged: "
                  "the master lease ended before it was complete (epoch " +
                      std::to_string(outcome.epoch) + ")");
      return;
    case WriteOutcome::Kind::kFailed:
      reply_error(out, "ERR the write failed: " + outcome.detail);
      return;
  }
}

void run_command(Server& server, Connection& connection, const Args& args) {
  const CommandSpec* spec = find_command(args[0]);
  if (spec == nullptr || !arity_fits(*spec, args)) {
    connection.multi_failed = connection.in_multi;
    reply_error(connection.out,
                spec == nullptr
                    ? "ERR unknown command '" + args[0].substr(0, 128) + "'"
                    : std::string("ERR wrong number of arguments for '") + spec->name + "' command");
    return;
  }
  server.count_command();
  if (handle_transaction(server, connection, spec, args)) return;
  run_unit(server, connection, {{spec, &args}}, false);
}

}  // namespace kvgate
