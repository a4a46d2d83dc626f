#include "data.hpp"

namespace kvgate {

namespace {

void append_u64(std::string& out, uint64_t number) {
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(number >> shift);
}

uint64_t read_u64(std::string_view bytes) {
  uint64_t number = 0;
  for (char c : bytes.substr(0, 8)) number = (number << 8) | static_cast<unsigned char>(c);
  return number;
}

rocksdb::Status damaged(const std::string& key) {
  return rocksdb::Status::Corruption("the record of this key is damaged", key);
}

}  // namespace

const char* name_of(ValueType type) {
  switch (type) {
    case ValueType::kNone: return "none";
    case ValueType::kString: return "string";
    case ValueType::kHash: return "hash";
    case ValueType::kList: return "list";
  }
  return "none";
}

rocksdb::Status load(Unit& unit, const std::string& key, Value& value) {
  value = Value();
  std::string record;
  const rocksdb::Status status = unit.get("m" + key, &record);
  if (status.IsNotFound()) return rocksdb::Status::OK();
  if (!status.ok()) return status;
  if (record.empty()) return damaged(key);
  const std::string_view rest = std::string_view(record).substr(1);
  value.type = static_cast<ValueType>(record[0]);
  switch (value.type) {
    case ValueType::kString:
      value.text = rest;
      return rocksdb::Status::OK();
    case ValueType::kHash:
      if (rest.size() != 8) return damaged(key);
      value.count = read_u64(rest);
      return rocksdb::Status::OK();
    case ValueType::kList:
      if (rest.size() != 16) return damaged(key);
      value.head = read_u64(rest);
      value.tail = read_u64(rest.substr(8));
      value.count = value.tail - value.head;
      return rocksdb::Status::OK();
    case ValueType::kNone:
      break;
  }
  return damaged(key);
}

void store(Unit& unit, const std::string& key, const Value& value) {
  std::string record(1, static_cast<char>(value.type));
  if (value.type == ValueType::kString) record += value.text;
  if (value.type == ValueType::kHash) append_u64(record, value.count);
  if (value.type == ValueType::kList) {
    append_u64(record, value.head);
    append_u64(record, value.tail);
  }
  unit.put("m" + key, record);
}

rocksdb::Status remove(Unit& unit, const std::string& key, const Value& value) {
  if (value.type == ValueType::kHash || value.type == ValueType::kList) {
    const std::string prefix = part_prefix(key);
    const std::unique_ptr<rocksdb::Iterator> parts = unit.iterator();
    std::vector<std::string> found;
    for (parts->Seek(prefix); parts->Valid() && parts->key().starts_with(prefix); parts->Next()) {
      found.push_back(parts->key().ToString());
    }
    if (!parts->status().ok()) return parts->status();
    for (const std::string& part : found) unit.erase(part);
  }
  unit.erase("m" + key);
  return rocksdb::Status::OK();
}

std::string part_prefix(std::string_view key) {
  std::string prefix = "e";
  append_u64(prefix, key.size());
  prefix += key;
  return prefix;
}

std::string field_key(std::string_view key, std::string_view field) {
  std::string full = part_prefix(key);
  full += field;
  return full;
}

std::string element_key(std::string_view key, uint64_t position) {
  std::string full = part_prefix(key);
  append_u64(full, position);
  return full;
}

}  // namespace kvgate
