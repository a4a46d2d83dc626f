#include "status_text.hpp"

#include <cctype>

namespace kvgate {

namespace {

class Reader {
 public:
  explicit Reader(std::string_view json) : json_(json) {}

  void object(const std::string& prefix, std::string& out) {
    take('{');
    while (!at('}')) {
      const std::string name = text();
      take(':');
      value(prefix + name, out);
      if (at(',')) take(',');
    }
    take('}');
  }

 private:
  // The value of the member `name`, as lines.
  void value(const std::string& name, std::string& out) {
    if (at('{')) {
      object(name + "_", out);
    } else if (at('[')) {
      array(name, out);
    } else {
      out += name + ":" + scalar() + "\r\n";
    }
  }

  void array(const std::string& name, std::string& out) {
    take('[');
    while (!at(']')) {
      if (at('[')) {
        take('[');
        const std::string key = scalar();
        take(',');
        value(name + "_" + key, out);
        take(']');
      } else {
        value(name, out);
      }
      if (at(',')) take(',');
    }
    take(']');
  }

  std::string scalar() {
    if (at('"')) return text();
    std::string word;
    while (at_ < json_.size() && (std::isalnum(static_cast<unsigned char>(json_[at_])) != 0 ||
                                  json_[at_] == '-' || json_[at_] == '.' || json_[at_] == '+')) {
      word += json_[at_++];
    }
    if (word.empty()) at_ = json_.size();  // not JSON: stop here
    if (word == "true") return "1";
    if (word == "false") return "0";
    return word == "null" ? "" : word;
  }

  // Names and messages of the library hold no escapes but \" and \\.
  std::string text() {
    std::string out;
    take('"');
    while (at_ < json_.size() && json_[at_] != '"') {
      if (json_[at_] == '\\') ++at_;
      if (at_ < json_.size()) out += json_[at_++];
    }
    take('"');
    return out;
  }

  bool at(char c) {
    while (at_ < json_.size() && std::isspace(static_cast<unsigned char>(json_[at_])) != 0) ++at_;
    return at_ >= json_.size() ? c == '}' || c == ']' : json_[at_] == c;
  }

  void take(char c) {
    if (at_ < json_.size() && at(c)) ++at_;
  }

  std::string_view json_;
  size_t at_ = 0;
};

}  // namespace

std::string status_lines(std::string_view json, const std::string& prefix) {
  std::string out;
  Reader(json).object(prefix, out);
  return out;
}

}  // namespace kvgate
