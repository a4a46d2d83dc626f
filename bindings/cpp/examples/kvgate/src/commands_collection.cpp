// Commands on hashes and lists.
#include "commands.hpp"
#include "data.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

// Reads a key that must be of `type` or not exist. False when the command is over.
bool load_as(Call& call, ValueType type, Value& value) {
  if (!call.unit.read_ok(load(call.unit, call.args[1], value))) return false;
  if (value.type == type || value.type == ValueType::kNone) return true;
  reply_error(call.out, "WRONGTYPE Operation against a key holding the wrong kind of value");
  return false;
}

// Whether the hash has the field. False in `good` when the read failed.
bool has_field(Call& call, const std::string& field, bool& good) {
  std::string text;
  const rocksdb::Status status = call.unit.get(field_key(call.args[1], field), &text);
  good = status.IsNotFound() || call.unit.read_ok(status);
  return status.ok();
}

void hset(Call& call) {
  if (call.args.size() % 2 != 0) {
    reply_error(call.out, "ERR wrong number of arguments for 'hset' command");
    return;
  }
  Value hash;
  if (!load_as(call, ValueType::kHash, hash)) return;
  int64_t added = 0;
  for (size_t i = 2; i < call.args.size(); i += 2) {
    bool good = true;
    if (!has_field(call, call.args[i], good)) ++added;
    if (!good) return;
    call.unit.put(field_key(call.args[1], call.args[i]), call.args[i + 1]);
  }
  hash.type = ValueType::kHash;
  hash.count += static_cast<uint64_t>(added);
  store(call.unit, call.args[1], hash);
  reply_integer(call.out, added);
}

void hget(Call& call) {
  Value hash;
  if (!load_as(call, ValueType::kHash, hash)) return;
  std::string text;
  const rocksdb::Status status = call.unit.get(field_key(call.args[1], call.args[2]), &text);
  if (status.IsNotFound()) {
    reply_null(call.out, call.connection.protocol);
  } else if (call.unit.read_ok(status)) {
    reply_bulk(call.out, text);
  }
}

void hdel(Call& call) {
  Value hash;
  if (!load_as(call, ValueType::kHash, hash)) return;
  int64_t removed = 0;
  for (size_t i = 2; i < call.args.size(); ++i) {
    bool good = true;
    const bool found = has_field(call, call.args[i], good);
    if (!good) return;
    if (!found) continue;
    call.unit.erase(field_key(call.args[1], call.args[i]));
    ++removed;
  }
  hash.count -= static_cast<uint64_t>(removed);
  if (removed > 0 && hash.count == 0) call.unit.erase("m" + call.args[1]);
  if (removed > 0 && hash.count > 0) store(call.unit, call.args[1], hash);
  reply_integer(call.out, removed);
}

void hlen(Call& call) {
  Value hash;
  if (load_as(call, ValueType::kHash, hash)) {
    reply_integer(call.out, static_cast<int64_t>(hash.count));
  }
}

void hgetall(Call& call) {
  Value hash;
  if (!load_as(call, ValueType::kHash, hash)) return;
  const std::string prefix = part_prefix(call.args[1]);
  const std::unique_ptr<rocksdb::Iterator> parts = call.unit.iterator();
  std::string fields;
  size_t count = 0;
  for (parts->Seek(prefix); parts->Valid() && parts->key().starts_with(prefix); parts->Next()) {
    rocksdb::Slice field = parts->key();
    field.remove_prefix(prefix.size());
    reply_bulk(fields, field.ToStringView());
    reply_bulk(fields, parts->value().ToStringView());
    ++count;
  }
  if (!call.unit.read_ok(parts->status())) return;
  reply_map(call.out, count, call.connection.protocol);
  call.out += fields;
}

void push(Call& call, bool left) {
  Value list;
  if (!load_as(call, ValueType::kList, list)) return;
  if (list.type == ValueType::kNone) {
    list.type = ValueType::kList;
    list.head = list.tail = kListMiddle;
  }
  for (size_t i = 2; i < call.args.size(); ++i) {
    const uint64_t position = left ? --list.head : list.tail++;
    call.unit.put(element_key(call.args[1], position), call.args[i]);
  }
  store(call.unit, call.args[1], list);
  reply_integer(call.out, static_cast<int64_t>(list.tail - list.head));
}

void lpush(Call& call) { push(call, true); }

void rpush(Call& call) { push(call, false); }

void llen(Call& call) {
  Value list;
  if (load_as(call, ValueType::kList, list)) {
    reply_integer(call.out, static_cast<int64_t>(list.count));
  }
}

void lrange(Call& call) {
  int64_t first = 0;
  int64_t last = 0;
  if (!parse_int(call.args[2], first) || !parse_int(call.args[3], last)) {
    reply_error(call.out, "ERR value is not an integer or out of range");
    return;
  }
  Value list;
  if (!load_as(call, ValueType::kList, list)) return;
  const int64_t count = static_cast<int64_t>(list.count);
  if (first < 0) first = first < -count ? 0 : first + count;
  if (last < 0) last = last < -count ? -1 : last + count;
  if (last >= count) last = count - 1;
  std::string elements;
  size_t found = 0;
  for (int64_t i = first; i <= last; ++i, ++found) {
    std::string text;
    const std::string key = element_key(call.args[1], list.head + static_cast<uint64_t>(i));
    if (!call.unit.read_ok(call.unit.get(key, &text))) return;
    reply_bulk(elements, text);
  }
  reply_array(call.out, found);
  call.out += elements;
}

}  // namespace

const std::vector<CommandSpec>& collection_commands() {
  static const std::vector<CommandSpec> commands = {
      {"hset", -4, kWrites, 1, 1, 1, hset},
      {"hget", 3, kReads, 1, 1, 1, hget},
      {"hdel", -3, kWrites, 1, 1, 1, hdel},
      {"hlen", 2, kReads, 1, 1, 1, hlen},
      {"hgetall", 2, kReads, 1, 1, 1, hgetall},
      {"lpush", -3, kWrites, 1, 1, 1, lpush},
      {"rpush", -3, kWrites, 1, 1, 1, rpush},
      {"llen", 2, kReads, 1, 1, 1, llen},
      {"lrange", 4, kReads, 1, 1, 1, lrange},
  };
  return commands;
}

}  // namespace kvgate
