#include "election.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <sstream>

#include "link.hpp"
#include "log.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

constexpr std::chrono::milliseconds kLook{25};
constexpr std::chrono::milliseconds kAside{300};
constexpr int kAnswerMs = 250;

// A server's name as the cluster's clients see it.
std::string cluster_id(std::string name) {
  name.resize(40, '0');
  return name;
}

bool ask_position(const std::string& host, uint16_t port, LogPosition& position) {
  Link link = Link::connect(host, port, kAnswerMs);
  Args answer;
  return link.open() && link.send({"LOGPOSITION"}) && link.receive(answer, kAnswerMs) == Link::Received::kFrame &&
         answer.size() == 2 && parse_uint(answer[0], position.epoch) && parse_uint(answer[1], position.sequence);
}

}  // namespace

bool Election::set_peers(const std::string& text, std::string& error) {
  std::istringstream parts(text);
  for (std::string part; std::getline(parts, part, ',');) {
    const size_t equals = part.find('=');
    const size_t colon = part.rfind(':');
    int64_t port = 0;
    if (equals == std::string::npos || equals == 0 || equals > 40 || colon == std::string::npos || colon < equals ||
        !parse_int(part.substr(colon + 1), port) || port < 1 || port > 65535) {
      error = "election-peers: expected NAME=HOST:PORT, found '" + part + "'";
      return false;
    }
    peers_.push_back({part.substr(0, equals), part.substr(equals + 1, colon - equals - 1), static_cast<uint16_t>(port)});
  }
  return true;
}

bool Election::start(std::string& error) {
  const std::string& me = server_.gate().node_id();
  bool named = false;
  for (const Peer& peer : peers_) named = named || peer.name == me;
  if (!named) {
    error = "election-peers does not name this server's node_id, '" + me + "'";
    return false;
  }
  if (server_.cluster_enabled() && !server_.cluster().set_my_id(cluster_id(me), error)) return false;
  thread_ = std::thread([this] { run(); });
  pthread_setname_np(thread_.native_handle(), "kv-election");
  return true;
}

void Election::stop() {
  stopping_.store(true);
  if (thread_.joinable()) thread_.join();
}

void Election::run() {
  while (!stopping_.load()) {
    look();
    std::this_thread::sleep_for(aside_ ? kAside : kLook);
    if (aside_) {
      std::string error;
      if (!server_.gate().stand(error)) log_line(LogLevel::kWarning, "cannot stand for the office: " + error);
      aside_ = false;
    }
  }
}

void Election::look() {
  std::string holder;
  std::string error;
  uint64_t epoch = 0;
  // Nobody holds it, or a majority cannot be asked: what this server may do is up to its gate.
  if (!server_.gate().office_holder(holder, epoch, error) || epoch == seen_) return;
  if (holder != server_.gate().node_id()) {
    follow(holder, epoch);
  } else if (server_.gate().open_epoch() == epoch) {
    take_office(epoch);
  }
}

void Election::follow(const std::string& name, uint64_t epoch) {
  for (const Peer& peer : peers_) {
    if (peer.name != name) continue;
    if (!tell_topology(name, epoch)) return;
    server_.set_replica_of(peer.host, peer.port);
    seen_ = epoch;
    return;
  }
  log_line(LogLevel::kWarning, "the office is held by '" + name + "', whom election-peers does not name");
}

Election::Verdict Election::compare_logs() const {
  // What was acknowledged is on its writer and on min-replicas-ack others, so that it is known to one of so many. Without replicas to
  // wait for nobody knows it, and all are asked.
  const size_t replicas = static_cast<size_t>(server_.config().number("min-replicas-ack"));
  const size_t needed = replicas == 0 ? peers_.size() : peers_.size() - std::min(peers_.size() - 1, replicas);
  const LogPosition ours = server_.storage().position();
  size_t known = 1;
  for (const Peer& peer : peers_) {
    LogPosition theirs;
    if (peer.name == server_.gate().node_id() || !ask_position(peer.host, peer.port, theirs)) continue;
    if (ours.behind(theirs)) return Verdict::kBehind;
    // One that does not answer holds nobody up longer than needed.
    if (++known >= needed) return Verdict::kUpToDate;
  }
  return replicas == 0 || known >= needed ? Verdict::kUpToDate : Verdict::kUnknown;
}

// The lock came after the end of the lease before, so nothing is acknowledged any more that the logs do not hold.
void Election::take_office(uint64_t epoch) {
  if (server_.gate().role() == Role::kReplica) {
    if (!server_.replica().host().empty()) server_.replica().follow("", 0);
    if (!server_.replica().idle()) return;  // a batch is still being applied: look again
  }
  const Verdict verdict = compare_logs();
  if (verdict == Verdict::kUnknown) return;
  if (verdict == Verdict::kBehind) {
    log_line(LogLevel::kInfo, "another server's log is ahead: giving up the office of epoch " + std::to_string(epoch));
    stepped_aside_.fetch_add(1);
    server_.gate().step_aside();
    aside_ = true;
    return;
  }
  if (!tell_topology(server_.gate().node_id(), epoch)) return;
  server_.set_replica_of("", 0);
  server_.gate().confirm(epoch);
  seen_ = epoch;
  log_line(LogLevel::kInfo, "took up the office of epoch " + std::to_string(epoch));
}

bool Election::tell_topology(const std::string& master, uint64_t epoch) {
  if (!server_.cluster_enabled()) return true;
  std::string text;
  for (const Peer& peer : peers_) {
    const bool is_master = peer.name == master;
    text += cluster_id(peer.name) + " " + peer.host + " " + std::to_string(peer.port);
    text += is_master ? " master - 0-16383\n" : " slave " + cluster_id(master) + "\n";
  }
  std::string error;
  if (server_.cluster().set_nodes(text, static_cast<int64_t>(epoch), false, error)) return true;
  log_line(LogLevel::kWarning, "the topology of epoch " + std::to_string(epoch) + " was not taken: " + error);
  return false;
}

}  // namespace kvgate
