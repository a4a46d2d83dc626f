// How Redis values lie in RocksDB.
//
//   'm' key                        -> type byte, then the string itself, a hash's number of fields,
//                                     or a list's first and last position
//   'e' length-of-key key suffix   -> one field of a hash, or one element of a list
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "storage.hpp"

namespace kvgate {

enum class ValueType : char { kNone = 0, kString = 's', kHash = 'h', kList = 'l' };

// A key's record. Positions are those of a list: elements are [head, tail), starting in the middle.
struct Value {
  ValueType type = ValueType::kNone;
  std::string text;
  uint64_t count = 0;
  uint64_t head = 0;
  uint64_t tail = 0;
};

constexpr uint64_t kListMiddle = 1ULL << 63;

const char* name_of(ValueType type);

// A key that does not exist is read as kNone.
rocksdb::Status load(Unit& unit, const std::string& key, Value& value);
void store(Unit& unit, const std::string& key, const Value& value);
// Removes a key of any type with all its parts.
rocksdb::Status remove(Unit& unit, const std::string& key, const Value& value);

// The prefix of a key's parts, and the parts themselves.
std::string part_prefix(std::string_view key);
std::string field_key(std::string_view key, std::string_view field);
std::string element_key(std::string_view key, uint64_t position);

}  // namespace kvgate
