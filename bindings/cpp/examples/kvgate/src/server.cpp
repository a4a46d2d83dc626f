#include "server.hpp"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "log.hpp"

namespace kvgate {

namespace {

// How soon the epoch of a new office is written down.
constexpr std::chrono::milliseconds kUpkeep{50};

// What an earlier life did not finish: databases on their way to a replica, or from a master.
void remove_leftovers(const std::string& directory) {
  std::error_code ignored;
  for (const std::filesystem::directory_entry& entry : std::filesystem::directory_iterator(directory, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name == "incoming" || name.rfind("snapshot-", 0) == 0) std::filesystem::remove_all(entry.path(), ignored);
  }
}

}  // namespace

bool Server::start(std::string& error) {
  const std::string dir = config_.text("dir");
  if (::mkdir(dir.c_str(), 0750) != 0 && errno != EEXIST) {
    error = "cannot create " + dir + ": " + strerror(errno);
    return false;
  }
  cluster_enabled_ = config_.flag("cluster-enabled");
  read_settings();
  directory_ = dir;
  remove_leftovers(dir);
  const std::string peers = config_.text("election-peers");
  elects_ = !peers.empty();
  if (elects_ && !election_.set_peers(peers, error)) return false;
  if (elects_ && config_.text("master-lease-key").empty()) {
    error = "election-peers needs master-lease-key: the office that they stand for";
    return false;
  }

  GateSettings gate_settings;
  gate_settings.mode = config_.text("master-lease-mode");
  gate_settings.data_dir = dir + "/lease";
  gate_settings.trust_receipt = config_.flag("master-lease-trust-receipt");
  gate_settings.own_lease_key = config_.text("master-lease-key");
  gate_settings.own_lease_ttl = std::chrono::milliseconds(config_.number("master-lease-ttl-ms"));
  gate_settings.node = config_.tenure();
  gate_settings.stands_as_replica = elects_;
  if (!gate_.open(gate_settings, error)) return false;

  Storage::Settings storage_settings;
  storage_settings.path = dir + "/db";
  storage_settings.sync = config_.flag("sync-writes");
  storage_settings.replicated = [this](uint64_t sequence) {
    return feeders_.wait(sequence, min_replicas_ack_.load(std::memory_order_relaxed), ack_timeout_ms_.load(std::memory_order_relaxed));
  };
  if (!storage_.open(storage_settings, &gate_, error)) return false;
  if (cluster_enabled_ && !cluster_.open(dir + "/nodes.conf", error)) return false;
  if (!replica_.start(error) || !listen(error)) return false;

  if (elects_) {
    gate_.set_role(Role::kReplica);
  } else if (cluster_enabled_) {
    follow_topology();
  }
  if (!gate_.serve(error)) return false;
  upkeep_ = std::thread([this] { upkeep(); });
  pthread_setname_np(upkeep_.native_handle(), "kv-upkeep");
  admin_ = std::make_unique<EventLoop>(*this, Lane::kAdmin);
  if (!admin_->start(-1, "kv-admin", error)) return false;
  const long workers = config_.number("workers");
  for (long i = 0; i < workers; ++i) {
    workers_.push_back(std::make_unique<EventLoop>(*this, Lane::kWorker));
    if (!workers_.back()->start(-1, "kv-worker-" + std::to_string(i), error)) return false;
  }
  control_ = std::make_unique<EventLoop>(*this, Lane::kControl);
  if (!control_->start(listener_, "kv-control", error)) return false;
  if (elects_ && !election_.start(error)) return false;
  const long metrics_port = config_.number("metrics-port");
  return metrics_port == 0 || metrics_.start(config_.text("bind"), static_cast<uint16_t>(metrics_port), error);
}

void Server::read_settings() {
  gates_reads_.store(config_.flag("master-lease-gate-reads"));
  min_replicas_ack_.store(config_.number("min-replicas-ack"));
  ack_timeout_ms_.store(config_.number("replica-ack-timeout-ms"));
}

void Server::upkeep() {
  std::unique_lock<std::mutex> lock(upkeep_mutex_);
  while (!stopping_) {
    upkeep_ends_.wait_for(lock, kUpkeep);
    lock.unlock();
    storage_.announce_epoch();
    lock.lock();
  }
}

bool Server::listen(std::string& error) {
  listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const int on = 1;
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(config_.number("port")));
  socklen_t length = sizeof address;
  const std::string bind_to = config_.text("bind");
  if (inet_pton(AF_INET, bind_to.c_str(), &address.sin_addr) != 1) {
    error = "'" + bind_to + "' is not an IPv4 address";
    return false;
  }
  if (listener_ < 0 || setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
      ::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(listener_, 511) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    error = "cannot listen on " + bind_to + ":" + config_.text("port") + ": " + strerror(errno);
    return false;
  }
  port_ = ntohs(address.sin_port);
  return true;
}

void Server::stop() {
  election_.stop();
  metrics_.stop();
  // Who waits for replicas is told that there are none.
  feeders_.retire();
  // The control loop accepts connections and hands them on, so it ends first.
  if (control_) control_->stop();
  if (admin_) admin_->stop();
  for (std::unique_ptr<EventLoop>& worker : workers_) worker->stop();
  replica_.stop();
  feeders_.retire();
  feeders_.join();
  {
    std::lock_guard<std::mutex> guard(upkeep_mutex_);
    stopping_ = true;
  }
  upkeep_ends_.notify_all();
  if (upkeep_.joinable()) upkeep_.join();
  if (listener_ >= 0) ::close(listener_);
  listener_ = -1;
  // The gate closes before the database, so that nothing can be acknowledged in between.
  gate_.close();
  storage_.close();
}

void Server::request_shutdown() { ::kill(::getpid(), SIGTERM); }

EventLoop& Server::loop_for(Lane lane) {
  if (lane == Lane::kControl) return *control_;
  if (lane == Lane::kAdmin) return *admin_;
  return *workers_[turn_.fetch_add(1) % workers_.size()];
}

void Server::set_replica_of(const std::string& host, uint16_t port) {
  std::lock_guard<std::mutex> guard(role_mutex_);
  const Role role = host.empty() ? Role::kMaster : Role::kReplica;
  if (role == gate_.role() && host == replica_.host() && port == replica_.port()) return;
  // The lease goes before anything is fetched, so that no client write mixes with the master's.
  gate_.set_role(role);
  if (role == Role::kReplica) feeders_.retire();
  replica_.follow(host, port);
  log_line(LogLevel::kInfo, host.empty() ? "role: master"
                                         : "role: replica of " + host + ":" + std::to_string(port));
}

void Server::follow_topology() {
  if (elects_) return;
  ClusterNode me;
  if (!cluster_.me(me)) return;
  if (me.master) {
    set_replica_of("", 0);
    return;
  }
  ClusterNode master;
  if (cluster_.find(me.master_id, master)) set_replica_of(master.host, master.port);
}

}  // namespace kvgate
