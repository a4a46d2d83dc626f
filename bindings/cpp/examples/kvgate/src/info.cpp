// INFO.
#include <unistd.h>

#include "resp.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

std::string line(const char* name, const std::string& value) {
  return std::string(name) + ":" + value + "\r\n";
}

std::string line(const char* name, uint64_t value) { return line(name, std::to_string(value)); }

std::string server_section(Server& server) {
  return line("redis_version", "7.0.0") + line("redis_mode", server.cluster_enabled() ? "cluster" : "standalone") +
         line("process_id", static_cast<uint64_t>(getpid())) +
         line("tcp_port", static_cast<uint64_t>(server.port()));
}

std::string clients_section(Server& server) {
  return line("connected_clients", static_cast<uint64_t>(server.connections()));
}

std::string stats_section(Server& server) {
  return line("total_commands_processed", server.commands());
}

std::string replication_section(Server& server) {
  if (server.gate().role() == Role::kMaster) {
    return line("role", "master") + server.feeders().describe() + line("master_repl_offset", server.storage().sequence()) +
           line("log_epoch", server.storage().position().epoch);
  }
  return line("role", "slave") + line("master_host", server.replica().host()) +
         line("master_port", server.replica().port()) +
         line("master_link_status", server.replica().link_up() ? "up" : "down") +
         line("slave_repl_offset", server.storage().sequence()) + line("slave_lag", server.replica().lag()) +
         line("full_syncs", server.replica().full_syncs()) + line("refused_for_epoch", server.replica().refused()) +
         line("log_epoch", server.storage().position().epoch);
}

std::string cluster_section(Server& server) {
  return line("cluster_enabled", server.cluster_enabled() ? 1 : 0);
}

std::string lease_section(Server& server) {
  const bool own = !server.config().text("master-lease-key").empty();
  return line("master_lease_mode", server.config().text("master-lease-mode")) +
         line("lease_source", own ? "own" : "heartbeats") + server.gate().describe();
}

std::string member_section(Server& server) {
  return line("node_id", server.gate().node_id()) + line("elections_stepped_aside", server.election().stepped_aside()) +
         server.gate().describe_node();
}

std::string keyspace_section(Server& server) {
  return line("sequence", server.storage().sequence());
}

struct Section {
  const char* name;
  std::string (*text)(Server&);
};

constexpr Section kSections[] = {
    {"Server", server_section},   {"Clients", clients_section}, {"Stats", stats_section},
    {"Replication", replication_section}, {"Cluster", cluster_section},
    {"Lease", lease_section},     {"Member", member_section}, {"Keyspace", keyspace_section},
};

}  // namespace

std::string describe(Server& server, const std::string& section) {
  const bool all = section.empty() || section == "all" || section == "default" ||
                   section == "everything";
  std::string text;
  for (const Section& candidate : kSections) {
    if (!all && !equals_ignoring_case(section, candidate.name)) continue;
    if (!text.empty()) text += "\r\n";
    text += std::string("# ") + candidate.name + "\r\n" + candidate.text(server);
  }
  return text;
}

}  // namespace kvgate
