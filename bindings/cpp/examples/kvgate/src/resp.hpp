// RESP2, and of RESP3 what a client meets that asks for it: maps and the null. Reads requests and
// writes replies; knows nothing of commands or sockets.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace kvgate {

// One request: the command's name and its arguments, all binary safe.
using Args = std::vector<std::string>;

// Reads requests out of a growing buffer. Keeps its place inside a half-received request, so that a
// long one which arrives in many pieces is scanned once.
class RequestParser {
 public:
  enum class Result { kRequest, kIncomplete, kProtocolError };

  // Largest argument, and largest number of arguments, that is accepted.
  static constexpr int64_t kMaxBulk = 512LL << 20;
  static constexpr int64_t kMaxArgs = 1 << 20;
  static constexpr size_t kMaxInline = 64 << 10;

  // Takes the next request from `buffer` (bytes received and not yet discarded) into `out`.
  // On kProtocolError, error() says why; the connection is of no further use.
  Result next(const std::string& buffer, Args& out);

  // Drops what has been consumed from the front of `buffer`. Call it once per batch of requests.
  void discard_consumed(std::string& buffer);

  const std::string& error() const { return error_; }

 private:
  bool take_line(const std::string& buffer, std::string_view& line);
  Result fail(const char* why);
  Result next_inline(std::string_view line, Args& out);

  size_t cursor_ = 0;
  int64_t args_left_ = 0;
  int64_t bulk_length_ = -1;
  Args partial_;
  std::string error_;
};

// Parses a whole decimal integer; false for anything else, an empty string and overflow included.
bool parse_int(std::string_view text, int64_t& out);
bool parse_uint(std::string_view text, uint64_t& out);

enum class Protocol { kResp2 = 2, kResp3 = 3 };

// Reply writers: each appends one value to `out`.
void reply_simple(std::string& out, std::string_view text);
// `text` starts with the error's prefix word. Line breaks in it become spaces.
void reply_error(std::string& out, std::string_view text);
void reply_integer(std::string& out, int64_t value);
void reply_bulk(std::string& out, std::string_view value);
void reply_null(std::string& out, Protocol protocol);
// Announces `count` values, which the caller appends next.
void reply_array(std::string& out, size_t count);
// Announces `pairs` keys, each with its value, which the caller appends next.
void reply_map(std::string& out, size_t pairs, Protocol protocol);

// `text` in lower case (ASCII only).
std::string lowered(std::string_view text);
bool equals_ignoring_case(std::string_view a, std::string_view b);

}  // namespace kvgate
