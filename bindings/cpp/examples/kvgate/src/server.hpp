// The server: its parts, its role, and its threads.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "cluster.hpp"
#include "config.hpp"
#include "election.hpp"
#include "event_loop.hpp"
#include "feeder.hpp"
#include "gatekeeper.hpp"
#include "metrics.hpp"
#include "replica.hpp"
#include "storage.hpp"

namespace kvgate {

class Server {
 public:
  explicit Server(Config& config)
      : config_(config), feeders_(*this), replica_(*this), election_(*this), metrics_(*this) {}

  // Opens everything and starts serving. Call it after going to the background: the library and
  // RocksDB start threads, which a fork would lose.
  bool start(std::string& error);
  void stop();

  // Asks the main thread to end the server. Any thread.
  void request_shutdown();

  // Becomes a replica of host:port, or a master again with an empty host. The lease is reset when
  // the role becomes replica; a new master stays closed until it is granted office.
  void set_replica_of(const std::string& host, uint16_t port);
  // Takes the role that the topology gives this node.
  void follow_topology();

  Config& config() { return config_; }
  Storage& storage() { return storage_; }
  Gatekeeper& gate() { return gate_; }
  Cluster& cluster() { return cluster_; }
  Replica& replica() { return replica_; }
  Feeders& feeders() { return feeders_; }
  Election& election() { return election_; }
  // Whether the servers settle among themselves who is master.
  bool elects() const { return elects_; }
  const std::string& directory() const { return directory_; }
  bool gates_reads() const { return gates_reads_.load(std::memory_order_relaxed); }
  // Takes over the settings that every command looks at; after CONFIG SET too.
  void read_settings();
  bool cluster_enabled() const { return cluster_enabled_; }
  uint16_t port() const { return port_; }

  // The loop that serves a lane; the workers take turns.
  EventLoop& loop_for(Lane lane);
  uint64_t next_id() { return ids_.fetch_add(1) + 1; }
  void count_connection(int change) { connections_.fetch_add(change); }
  void count_command() { commands_.fetch_add(1, std::memory_order_relaxed); }
  int64_t connections() const { return connections_.load(); }
  uint64_t commands() const { return commands_.load(); }

 private:
  bool listen(std::string& error);
  void upkeep();

  Config& config_;
  Storage storage_;
  Gatekeeper gate_;
  Cluster cluster_;
  Feeders feeders_;
  Replica replica_;
  Election election_;
  MetricsEndpoint metrics_;
  std::unique_ptr<EventLoop> control_;
  std::unique_ptr<EventLoop> admin_;
  std::vector<std::unique_ptr<EventLoop>> workers_;
  std::atomic<size_t> turn_{0};
  std::atomic<uint64_t> ids_{0};
  std::atomic<int64_t> connections_{0};
  std::atomic<uint64_t> commands_{0};
  std::mutex role_mutex_;
  std::mutex upkeep_mutex_;
  std::condition_variable upkeep_ends_;
  bool stopping_ = false;
  std::thread upkeep_;
  std::string directory_;
  bool elects_ = false;
  std::atomic<bool> gates_reads_{false};
  std::atomic<long> min_replicas_ack_{0};
  std::atomic<long> ack_timeout_ms_{0};
  bool cluster_enabled_ = false;
  int listener_ = -1;
  uint16_t port_ = 0;
};

// The numbers of INFO, in Prometheus' text format.
std::string describe_metrics(Server& server);

// INFO's text; an empty section, "all", "default" and "everything" give all sections.
std::string describe(Server& server, const std::string& section);

}  // namespace kvgate
