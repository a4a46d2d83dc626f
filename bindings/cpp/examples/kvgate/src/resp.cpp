#include "resp.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>

namespace kvgate {

namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }

}  // namespace

bool RequestParser::take_line(const std::string& buffer, std::string_view& line) {
  const size_t end = buffer.find('\n', cursor_);
  if (end == std::string::npos) return false;
  line = std::string_view(buffer).substr(cursor_, end - cursor_);
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  cursor_ = end + 1;
  return true;
}

RequestParser::Result RequestParser::fail(const char* why) {
  error_ = std::string("ERR Protocol error: ") + why;
  return Result::kProtocolError;
}

RequestParser::Result RequestParser::next_inline(std::string_view line, Args& out) {
  out.clear();
  size_t at = 0;
  while (at < line.size()) {
    const size_t start = line.find_first_not_of(" \t", at);
    if (start == std::string_view::npos) break;
    const size_t end = std::min(line.find_first_of(" \t", start), line.size());
    out.emplace_back(line.substr(start, end - start));
    at = end;
  }
  return Result::kRequest;
}

RequestParser::Result RequestParser::next(const std::string& buffer, Args& out) {
  if (args_left_ == 0) {
    std::string_view line;
    if (!take_line(buffer, line)) {
      return buffer.size() - cursor_ > kMaxInline ? fail("too big inline request")
                                                  : Result::kIncomplete;
    }
    if (line.empty() || line.front() != '*') return next_inline(line, out);
    int64_t count = 0;
    if (!parse_int(line.substr(1), count) || count > kMaxArgs) {
      return fail("invalid multibulk length");
    }
    if (count <= 0) {
      out.clear();
      return Result::kRequest;
    }
    args_left_ = count;
    bulk_length_ = -1;
    partial_.clear();
    partial_.reserve(static_cast<size_t>(std::min<int64_t>(count, 1024)));
  }
  while (args_left_ > 0) {
    if (bulk_length_ < 0) {
      std::string_view line;
      if (!take_line(buffer, line)) {
        return buffer.size() - cursor_ > kMaxInline ? fail("too big bulk count string")
                                                    : Result::kIncomplete;
      }
      int64_t length = 0;
      if (line.empty() || line.front() != '$') return fail("expected '$'");
      if (!parse_int(line.substr(1), length) || length < 0 || length > kMaxBulk) {
        return fail("invalid bulk length");
      }
      bulk_length_ = length;
    }
    const size_t length = static_cast<size_t>(bulk_length_);
    if (buffer.size() - cursor_ < length + 2) return Result::kIncomplete;
    if (buffer.compare(cursor_ + length, 2, "\r\n") != 0) return fail("bulk without line end");
    partial_.emplace_back(buffer, cursor_, length);
    cursor_ += length + 2;
    bulk_length_ = -1;
    --args_left_;
  }
  out.swap(partial_);
  partial_.clear();
  return Result::kRequest;
}

void RequestParser::discard_consumed(std::string& buffer) {
  if (cursor_ == 0) return;
  buffer.erase(0, cursor_);
  cursor_ = 0;
}

bool parse_int(std::string_view text, int64_t& out) {
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, out);
  return failure == std::errc() && stopped == end && !text.empty();
}

bool parse_uint(std::string_view text, uint64_t& out) {
  const char* end = text.data() + text.size();
  const auto [stopped, failure] = std::from_chars(text.data(), end, out);
  return failure == std::errc() && stopped == end && !text.empty();
}

void reply_simple(std::string& out, std::string_view text) {
  out += '+';
  out += text;
  out += "\r\n";
}

void reply_error(std::string& out, std::string_view text) {
  out += '-';
  for (char c : text) out += (c == '\r' || c == '\n') ? ' ' : c;
  out += "\r\n";
}

void reply_integer(std::string& out, int64_t value) {
  out += ':';
  out += std::to_string(value);
  out += "\r\n";
}

void reply_bulk(std::string& out, std::string_view value) {
  out += '$';
  out += std::to_string(value.size());
  out += "\r\n";
  out += value;
  out += "\r\n";
}

void reply_null(std::string& out, Protocol protocol) {
  out += protocol == Protocol::kResp3 ? "_\r\n" : "$-1\r\n";
}

void reply_array(std::string& out, size_t count) {
  out += '*';
  out += std::to_string(count);
  out += "\r\n";
}

void reply_map(std::string& out, size_t pairs, Protocol protocol) {
  if (protocol == Protocol::kResp2) {
    reply_array(out, 2 * pairs);
    return;
  }
  out += '%';
  out += std::to_string(pairs);
  out += "\r\n";
}

std::string lowered(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  return out;
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return a.size() == b.size() && std::equal(a.begin(), a.end(), b.begin(), [](char x, char y) {
           return lower(x) == lower(y);
         });
}

}  // namespace kvgate
