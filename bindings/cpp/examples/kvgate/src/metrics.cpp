#include "metrics.hpp"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cctype>
#include <chrono>
#include <sstream>

#include "server.hpp"

namespace kvgate {

namespace {

constexpr size_t kMaxRequest = 8 << 10;

bool is_number(const std::string& text) {
  if (text.empty()) return false;
  char* end = nullptr;
  static_cast<void>(strtod(text.c_str(), &end));
  return *end == '\0' && (std::isdigit(static_cast<unsigned char>(text[0])) != 0 || text[0] == '-');
}

// What stands in a label's quotes.
std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::string describe_metrics(Server& server) {
  std::istringstream lines(describe(server, ""));
  std::string out;
  std::string section;
  for (std::string line; std::getline(lines, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.rfind("# ", 0) == 0) section = lowered(line.substr(2));
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    // A section's name is not repeated where it starts the line's: lease_epoch is kvgate_lease_epoch.
    std::string name = line.substr(0, colon);
    for (char& c : name) {
      if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
    }
    name = "kvgate_" + (name.rfind(section + "_", 0) == 0 ? name : section + "_" + name);
    const std::string value = line.substr(colon + 1);
    out += is_number(value) ? name + " " + value + "\n" : name + "_info{value=\"" + escaped(value) + "\"} 1\n";
  }
  return out;
}

bool MetricsEndpoint::start(const std::string& address, uint16_t port, std::string& error) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  sockaddr_in at{};
  at.sin_family = AF_INET;
  at.sin_port = htons(port);
  if (listener_ < 0 || inet_pton(AF_INET, address.c_str(), &at.sin_addr) != 1 ||
      setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(listener_, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0 || ::listen(listener_, 16) != 0) {
    error = "cannot serve metrics on " + address + ":" + std::to_string(port) + ": " + strerror(errno);
    return false;
  }
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "kv-metrics");
  return true;
}

void MetricsEndpoint::stop() {
  stopping_.store(true);
  if (listener_ >= 0) ::shutdown(listener_, SHUT_RDWR);
  if (thread_.joinable()) thread_.join();
  if (listener_ >= 0) ::close(listener_);
  listener_ = -1;
}

void MetricsEndpoint::run() {
  while (!stopping_.load()) {
    const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (socket < 0) {
      if (errno == EINVAL) return;  // shut down
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      continue;
    }
    answer(socket);
    ::close(socket);
  }
}

void MetricsEndpoint::answer(int socket) {
  timeval limit{1, 0};
  setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  std::string request;
  while (request.find("\r\n\r\n") == std::string::npos) {
    char chunk[1024];
    const ssize_t got = ::recv(socket, chunk, sizeof chunk, 0);
    if (got <= 0 || request.size() > kMaxRequest) return;
    request.append(chunk, static_cast<size_t>(got));
  }
  const bool found = request.rfind("GET /metrics ", 0) == 0;
  const std::string body = found ? describe_metrics(server_) : "not found\n";
  std::string response = found ? "HTTP/1.1 200 OK\r\n" : "HTTP/1.1 404 Not Found\r\n";
  response += "Content-Type: text/plain; version=0.0.4\r\nConnection: close\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  size_t sent = 0;
  while (sent < response.size()) {
    const ssize_t step = ::send(socket, response.data() + sent, response.size() - sent, MSG_NOSIGNAL);
    if (step <= 0) return;
    sent += static_cast<size_t>(step);
  }
}

}  // namespace kvgate
