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

// Of this thread, for the database as it is: to be used while that is in use.
Unit& thread_unit(Server& server) {
  thread_local std::optional<Unit> unit;
  thread_local uint64_t generation = 0;
  if (!unit || generation != server.storage().generation()) {
    generation = server.storage().generation();
    unit.emplace(server.storage().db());
  }
  unit->clear();
  return *unit;
}

bool refused_on_replica(Server& server, std::string& out) {
  if (server.gate().role() != Role::kReplica) return false;
  reply_error(out, "READONLY You can't write against a read only replica.");
  return true;
}

// The optional read gate: false with the refusal when this server may not answer reads now.
bool reads_allowed(Server& server, std::string& out) {
  if (!server.gates_reads() || server.gate().may_read()) return true;
  const tenure::Permit why = server.gate().probe();
  reply_error(out, server.config().text("master-lease-error-prefix") + " master lease expired (read; " +
                       server.gate().refusal_detail(why ? "expired" : why.reason_name()) + ")");
  return false;
}

struct Step {
  const CommandSpec* spec;
  const Args* args;
};

bool parse_script(const Args& args, std::vector<Args>& commands, std::string& error) {
  uint64_t count = 0;
  size_t at = 2;
  error = "ERR EVALWRITES takes a count, and so many times a number of words and the words";
  if (!parse_uint(args[1], count) || count == 0) return false;
  for (; count > 0; --count) {
    uint64_t words = 0;
    if (at >= args.size() || !parse_uint(args[at], words) || words == 0 || words > args.size() - at - 1) return false;
    const auto first = args.begin() + static_cast<ptrdiff_t>(at) + 1;
    commands.emplace_back(first, first + static_cast<ptrdiff_t>(words));
    at += 1 + words;
  }
  return at == args.size();
}

// Runs commands as one unit: their writes are one batch under one permit, and their replies are
// sent only if that batch is acknowledged. In a transaction the replies become one array.
void run_unit(Server& server, Connection& connection, const std::vector<Step>& steps,
              bool transaction) {
  bool writes = false;
  bool reads = false;
  std::vector<std::string_view> keys;
  for (const Step& step : steps) {
    writes = writes || (step.spec->flags & kWrites) != 0;
    reads = reads || (step.spec->flags & kReads) != 0;
    collect_keys(*step.spec, *step.args, keys);
  }
  if (!serves(server, connection, keys, writes, connection.out)) return;
  if (writes && refused_on_replica(server, connection.out)) return;
  // What touches no data is not kept waiting by a database that is being replaced.
  std::string reply;
  if (!transaction && (steps[0].spec->flags & (kReads | kWrites | kWorkerLane)) == 0) {
    Unit nothing(nullptr);
    Call call{server, connection, *steps[0].args, nothing, connection.out};
    steps[0].spec->run(call);
    return;
  }
  if (reads && !reads_allowed(server, connection.out)) return;
  const Storage::Use in_use = server.storage().use();
  Unit& unit = thread_unit(server);
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
  // What was read may be answered only if the lease was still valid after it had been read.
  if (reads && outcome.good() && !reads_allowed(server, connection.out)) return;
  if (writes && outcome.good()) connection.last_epoch = outcome.epoch;
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

// EVALWRITES count [argc name argument...]...: like a script, several writes one after the other, each in the database before
// the next is made, under one permit. Their replies are sent only if the lease was valid until the last was complete.
void run_script(Server& server, Connection& connection, const Args& args) {
  std::vector<Args> commands;
  std::vector<Step> steps;
  std::vector<std::string_view> keys;
  std::string error;
  if (!parse_script(args, commands, error)) {
    reply_error(connection.out, error);
    return;
  }
  for (const Args& command : commands) {
    const CommandSpec* spec = find_command(command[0]);
    if (spec == nullptr || !arity_fits(*spec, command) || (spec->flags & (kReads | kWrites)) == 0) {
      reply_error(connection.out, "ERR '" + command[0].substr(0, 128) + "' cannot be called by EVALWRITES, or not so");
      return;
    }
    steps.push_back({spec, &command});
    collect_keys(*spec, command, keys);
  }
  if (!serves(server, connection, keys, true, connection.out) || refused_on_replica(server, connection.out)) return;

  const Storage::Use in_use = server.storage().use();
  const Storage::KeyLocks locks(server.storage(), keys);
  PermittedWrites writes(server.storage(), WriteClass::kClient);
  std::string reply;
  bool wrote = false;
  reply_array(reply, steps.size());
  for (const Step& step : steps) {
    Unit& unit = thread_unit(server);
    Call call{server, connection, *step.args, unit, reply};
    step.spec->run(call);
    WriteOutcome outcome;
    if (!unit.read_error().ok()) {
      outcome.kind = WriteOutcome::Kind::kFailed;
      outcome.detail = unit.read_error().ToString();
    } else if (unit.batch()->Count() != 0) {
      outcome = writes.write(unit.batch());
      wrote = true;
    }
    if (!outcome.good()) return reply_write(server, outcome, "", connection.out);
  }
  reply_write(server, wrote ? writes.finish() : WriteOutcome(), reply, connection.out);
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
      reply_error(out, "UNCERTAIN the write may have been applied but is not acknowledged: " + outcome.detail +
                           " (epoch " + std::to_string(outcome.epoch) + ")");
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
  if (equals_ignoring_case(spec->name, "evalwrites")) return run_script(server, connection, args);
  run_unit(server, connection, {{spec, &args}}, false);
}

}  // namespace kvgate
