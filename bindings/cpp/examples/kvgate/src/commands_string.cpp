// Commands on strings, on keys of any type, and on raw batches.
#include "commands.hpp"
#include "data.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

constexpr const char* kWrongType =
    "WRONGTYPE Operation against a key holding the wrong kind of value";

// Replaces whatever the key holds by a string.
bool overwrite(Call& call, const std::string& key, const std::string& text) {
  Value old;
  if (!call.unit.read_ok(load(call.unit, key, old))) return false;
  if (old.type == ValueType::kHash || old.type == ValueType::kList) {
    if (!call.unit.read_ok(remove(call.unit, key, old))) return false;
  }
  Value value;
  value.type = ValueType::kString;
  value.text = text;
  store(call.unit, key, value);
  return true;
}

void set(Call& call) {
  bool only_new = false;
  bool only_old = false;
  for (size_t i = 3; i < call.args.size(); ++i) {
    const bool nx = equals_ignoring_case(call.args[i], "nx");
    const bool xx = equals_ignoring_case(call.args[i], "xx");
    if (!nx && !xx) {
      reply_error(call.out, "ERR syntax error: only NX and XX are supported, keys do not expire");
      return;
    }
    only_new = only_new || nx;
    only_old = only_old || xx;
  }
  if (only_new && only_old) {
    reply_error(call.out, "ERR syntax error");
    return;
  }
  Value old;
  if (!call.unit.read_ok(load(call.unit, call.args[1], old))) return;
  const bool exists = old.type != ValueType::kNone;
  if ((only_new && exists) || (only_old && !exists)) {
    reply_null(call.out, call.connection.protocol);
    return;
  }
  if (overwrite(call, call.args[1], call.args[2])) reply_simple(call.out, "OK");
}

void get(Call& call) {
  Value value;
  if (!call.unit.read_ok(load(call.unit, call.args[1], value))) return;
  if (value.type == ValueType::kNone) {
    reply_null(call.out, call.connection.protocol);
  } else if (value.type != ValueType::kString) {
    reply_error(call.out, kWrongType);
  } else {
    reply_bulk(call.out, value.text);
  }
}

void mset(Call& call) {
  if (call.args.size() % 2 == 0) {
    reply_error(call.out, "ERR wrong number of arguments for 'mset' command");
    return;
  }
  for (size_t i = 1; i < call.args.size(); i += 2) {
    if (!overwrite(call, call.args[i], call.args[i + 1])) return;
  }
  reply_simple(call.out, "OK");
}

void mget(Call& call) {
  std::string values;
  for (size_t i = 1; i < call.args.size(); ++i) {
    Value value;
    if (!call.unit.read_ok(load(call.unit, call.args[i], value))) return;
    if (value.type == ValueType::kString) {
      reply_bulk(values, value.text);
    } else {
      reply_null(values, call.connection.protocol);
    }
  }
  reply_array(call.out, call.args.size() - 1);
  call.out += values;
}

void add(Call& call, int64_t amount) {
  Value value;
  if (!call.unit.read_ok(load(call.unit, call.args[1], value))) return;
  int64_t number = 0;
  if (value.type != ValueType::kNone && value.type != ValueType::kString) {
    reply_error(call.out, kWrongType);
    return;
  }
  if (value.type == ValueType::kString && !parse_int(value.text, number)) {
    reply_error(call.out, "ERR value is not an integer or out of range");
    return;
  }
  if (__builtin_add_overflow(number, amount, &number)) {
    reply_error(call.out, "ERR increment or decrement would overflow");
    return;
  }
  value.type = ValueType::kString;
  value.text = std::to_string(number);
  store(call.unit, call.args[1], value);
  reply_integer(call.out, number);
}

void incr(Call& call) { add(call, 1); }

void decr(Call& call) { add(call, -1); }

void add_argument(Call& call, bool negated) {
  int64_t amount = 0;
  if (!parse_int(call.args[2], amount) ||
      (negated && __builtin_sub_overflow(int64_t{0}, amount, &amount))) {
    reply_error(call.out, "ERR value is not an integer or out of range");
    return;
  }
  add(call, amount);
}

void incrby(Call& call) { add_argument(call, false); }

void decrby(Call& call) { add_argument(call, true); }

void del(Call& call) {
  int64_t removed = 0;
  for (size_t i = 1; i < call.args.size(); ++i) {
    Value value;
    if (!call.unit.read_ok(load(call.unit, call.args[i], value))) return;
    if (value.type == ValueType::kNone) continue;
    if (!call.unit.read_ok(remove(call.unit, call.args[i], value))) return;
    ++removed;
  }
  reply_integer(call.out, removed);
}

void exists(Call& call) {
  int64_t found = 0;
  for (size_t i = 1; i < call.args.size(); ++i) {
    Value value;
    if (!call.unit.read_ok(load(call.unit, call.args[i], value))) return;
    found += value.type != ValueType::kNone ? 1 : 0;
  }
  reply_integer(call.out, found);
}

void type(Call& call) {
  Value value;
  if (call.unit.read_ok(load(call.unit, call.args[1], value))) {
    reply_simple(call.out, name_of(value.type));
  }
}

// APPLYBATCH <serialised RocksDB batch>: a client's write on a master, the master's on a replica.
void apply_batch(Call& call) {
  const bool replica = call.server.gate().role() == Role::kReplica;
  const WriteOutcome outcome = call.server.storage().apply(
      call.args[1], replica ? WriteClass::kReplication : WriteClass::kClient);
  reply_write(call.server, outcome, "+OK\r\n", call.out);
}

}  // namespace

const std::vector<CommandSpec>& string_commands() {
  static const std::vector<CommandSpec> commands = {
      {"set", -3, kWrites, 1, 1, 1, set},
      {"get", 2, kReads, 1, 1, 1, get},
      {"mset", -3, kWrites, 1, -1, 2, mset},
      {"mget", -2, kReads, 1, -1, 1, mget},
      {"incr", 2, kWrites, 1, 1, 1, incr},
      {"decr", 2, kWrites, 1, 1, 1, decr},
      {"incrby", 3, kWrites, 1, 1, 1, incrby},
      {"decrby", 3, kWrites, 1, 1, 1, decrby},
      {"del", -2, kWrites, 1, -1, 1, del},
      {"exists", -2, kReads, 1, -1, 1, exists},
      {"type", 2, kReads, 1, 1, 1, type},
      {"applybatch", 2, kWorkerLane | kNotInMulti, 0, 0, 0, apply_batch},
  };
  return commands;
}

}  // namespace kvgate
