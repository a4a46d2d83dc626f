// CLUSTER, for clients, and CLUSTERX, for the controller: topology and the master's lease.
#include <algorithm>
#include <chrono>
#include <limits>

#include "commands.hpp"
#include "server.hpp"

namespace kvgate {

namespace {

constexpr uint64_t kLongestDrainMs = 3'600'000;

bool cluster_on(Call& call) {
  if (call.server.cluster_enabled()) return true;
  reply_error(call.out, "ERR Cluster mode is not enabled");
  return false;
}

void node_address(std::string& out, const ClusterNode& node) {
  reply_array(out, 3);
  reply_bulk(out, node.host);
  reply_integer(out, node.port);
  reply_bulk(out, node.id);
}

void cluster_slots(Call& call) {
  const std::vector<ClusterNode> nodes = call.server.cluster().nodes();
  std::string ranges;
  size_t count = 0;
  for (const ClusterNode& master : nodes) {
    for (const auto& [first, last] : master.slots) {
      const auto replica_of_this = [&](const ClusterNode& n) { return n.master_id == master.id; };
      const auto replicas = std::count_if(nodes.begin(), nodes.end(), replica_of_this);
      reply_array(ranges, 3 + static_cast<size_t>(replicas));
      reply_integer(ranges, first);
      reply_integer(ranges, last);
      node_address(ranges, master);
      for (const ClusterNode& node : nodes) {
        if (replica_of_this(node)) node_address(ranges, node);
      }
      ++count;
    }
  }
  reply_array(call.out, count);
  call.out += ranges;
}

void describe_shard_node(Call& call, std::string& out, const ClusterNode& node) {
  reply_map(out, 6, call.connection.protocol);
  reply_bulk(out, "id");
  reply_bulk(out, node.id);
  reply_bulk(out, "port");
  reply_integer(out, node.port);
  reply_bulk(out, "ip");
  reply_bulk(out, node.host);
  reply_bulk(out, "role");
  reply_bulk(out, node.master ? "master" : "replica");
  reply_bulk(out, "replication-offset");
  reply_integer(out, node.id == call.server.cluster().my_id() ? static_cast<int64_t>(call.server.storage().sequence()) : 0);
  reply_bulk(out, "health");
  reply_bulk(out, "online");
}

void cluster_shards(Call& call) {
  const std::vector<ClusterNode> nodes = call.server.cluster().nodes();
  std::string shards;
  size_t count = 0;
  for (const ClusterNode& master : nodes) {
    if (!master.master) continue;
    reply_map(shards, 2, call.connection.protocol);
    reply_bulk(shards, "slots");
    reply_array(shards, 2 * master.slots.size());
    for (const auto& [first, last] : master.slots) {
      reply_integer(shards, first);
      reply_integer(shards, last);
    }
    reply_bulk(shards, "nodes");
    std::string members;
    size_t size = 0;
    for (const ClusterNode& node : nodes) {
      if (node.id != master.id && node.master_id != master.id) continue;
      describe_shard_node(call, members, node);
      ++size;
    }
    reply_array(shards, size);
    shards += members;
    ++count;
  }
  reply_array(call.out, count);
  call.out += shards;
}

void cluster(Call& call) {
  if (!cluster_on(call)) return;
  const std::string what = lowered(call.args[1]);
  if (what == "nodes") {
    reply_bulk(call.out, call.server.cluster().describe_nodes());
  } else if (what == "slots") {
    cluster_slots(call);
  } else if (what == "shards") {
    cluster_shards(call);
  } else if (what == "info") {
    reply_bulk(call.out, call.server.cluster().describe_info());
  } else if (what == "myid") {
    reply_bulk(call.out, call.server.cluster().my_id());
  } else if (what == "keyslot" && call.args.size() == 3) {
    reply_integer(call.out, slot_of(call.args[2]));
  } else {
    reply_error(call.out, "ERR CLUSTER command, CLUSTER INFO|NODES|SLOTS|SHARDS|KEYSLOT|MYID");
  }
}

void set_nodes(Call& call) {
  const Args& args = call.args;
  int64_t version = 0;
  const bool force = args.size() == 5 && equals_ignoring_case(args[4], "force");
  if (args.size() < 4 || args.size() > 5 || (args.size() == 5 && !force)) {
    reply_error(call.out, "ERR Invalid setnodes options");
    return;
  }
  if (!parse_int(args[3], version)) {
    reply_error(call.out, "ERR Invalid version");
    return;
  }
  std::string error;
  if (!call.server.cluster().set_nodes(args[2], version, force, error)) {
    reply_error(call.out, "ERR " + error);
    return;
  }
  call.server.follow_topology();
  reply_simple(call.out, "OK");
}

// A heartbeat's arguments, in either form that controllers send.
struct HeartbeatRequest {
  tenure::Heartbeat beat{};
  std::string node_id;  // empty in the form that names no node
};

bool parse_number(Call& call, const char* name, const std::string& text, uint64_t& number) {
  if (!parse_uint(text, number)) {
    reply_error(call.out, std::string("ERR ") + name + " is not an integer or out of range");
    return false;
  }
  return true;
}

// HEARTBEAT election-version ttl-ms [NONCE n]
// HEARTBEAT master-node-id lease-ms election-version [NONCE n]
bool parse_heartbeat(Call& call, HeartbeatRequest& request) {
  const Args& args = call.args;
  size_t count = args.size() - 2;
  if (count >= 4 && equals_ignoring_case(args[args.size() - 2], "nonce")) {
    uint64_t nonce = 0;
    if (!parse_number(call, "nonce", args.back(), nonce)) return false;
    request.beat.nonce = nonce;
    count -= 2;
  }
  if (count != 2 && count != 3) {
    reply_error(call.out, "ERR wrong number of arguments for 'clusterx|heartbeat' command");
    return false;
  }
  const bool names_node = count == 3;
  if (names_node) request.node_id = args[2];
  const std::string& ttl = args[3];
  const std::string& epoch = names_node ? args[4] : args[2];
  uint64_t ttl_ms = 0;
  if (!parse_number(call, names_node ? "lease_ms" : "ttl_ms", ttl, ttl_ms) ||
      !parse_number(call, "election_version", epoch, request.beat.epoch)) {
    return false;
  }
  if (ttl_ms == 0) {
    reply_error(call.out, "ERR invalid lease_ms: must be greater than 0");
    return false;
  }
  // The gate has a bound of its own, far below what std::chrono can hold.
  constexpr uint64_t kMost = std::numeric_limits<int32_t>::max();
  request.beat.ttl = std::chrono::milliseconds(std::min(ttl_ms, kMost));
  return true;
}

void reply_nonce_form(std::string& out, Protocol protocol, const HeartbeatReply& reply) {
  reply_map(out, 5, protocol);
  reply_bulk(out, "accepted");
  reply_integer(out, reply.accepted ? 1 : 0);
  reply_bulk(out, "epoch");
  reply_bulk(out, std::to_string(reply.epoch));
  reply_bulk(out, "remaining_ms");
  reply_integer(out, static_cast<int64_t>(reply.remaining_ms));
  reply_bulk(out, "next_nonce");
  reply_bulk(out, std::to_string(reply.next_nonce));
  reply_bulk(out, "reason");
  reply_bulk(out, reply.reason);
}

// The form without a nonce is answered like INFO, which is what such a controller reads the role
// and the sequence from.
void reply_plain_form(Call& call, const HeartbeatReply& reply) {
  std::string text = describe(call.server, "replication");
  text += "\r\n" + describe(call.server, "keyspace");
  text += "\r\n# Heartbeat\r\naccepted:" + std::to_string(reply.accepted ? 1 : 0);
  text += "\r\nepoch:" + std::to_string(reply.epoch);
  text += "\r\nremaining_ms:" + std::to_string(reply.remaining_ms);
  text += "\r\nnext_nonce:" + std::to_string(reply.next_nonce);
  text += "\r\nreason:" + reply.reason + "\r\n";
  reply_bulk(call.out, text);
}

void heartbeat(Call& call) {
  HeartbeatRequest request;
  if (!parse_heartbeat(call, request)) return;
  Gatekeeper& gate = call.server.gate();
  const bool for_us =
      request.node_id.empty() || request.node_id == call.server.cluster().my_id();
  const HeartbeatReply reply =
      for_us ? gate.heartbeat(request.beat) : gate.heartbeat_for(request.node_id, request.beat.epoch);
  if (reply.stale) {
    reply_error(call.out, "ERR election version mismatch: local=" + std::to_string(reply.epoch) +
                              ", received=" + std::to_string(request.beat.epoch));
  } else if (!reply.error.empty()) {
    reply_error(call.out, "ERR " + reply.error);
  } else if (request.beat.nonce) {
    reply_nonce_form(call.out, call.connection.protocol, reply);
  } else {
    reply_plain_form(call, reply);
  }
}

// CLUSTERX DRAIN timeout-ms: stops admitting writes, waits for those in flight, and gives the
// office up. After "drained" 1 no write of this epoch is on its way.
void drain(Call& call) {
  uint64_t timeout_ms = 0;
  if (call.args.size() != 3) {
    reply_error(call.out, "ERR wrong number of arguments for 'clusterx|drain' command");
    return;
  }
  if (!parse_number(call, "timeout_ms", call.args[2], timeout_ms)) return;
  timeout_ms = std::min<uint64_t>(timeout_ms, kLongestDrainMs);
  std::string error;
  if (call.server.gate().drain(std::chrono::milliseconds(timeout_ms), error)) {
    reply_simple(call.out, "OK");
  } else {
    reply_error(call.out, "ERR not drained: " + error);
  }
}

void clusterx(Call& call) {
  const std::string what = lowered(call.args[1]);
  const size_t count = call.args.size();
  if (!cluster_on(call)) return;
  if (what == "heartbeat") {
    heartbeat(call);
  } else if (what == "nonce" && count == 2) {
    reply_bulk(call.out, std::to_string(call.server.gate().issue_nonce()));
  } else if (what == "drain") {
    drain(call);
  } else if (what == "version" && count == 2) {
    reply_bulk(call.out, std::to_string(call.server.cluster().version()));
  } else if (what == "myid" && count == 2) {
    reply_bulk(call.out, call.server.cluster().my_id());
  } else if (call.server.elects() && (what == "setnodes" || what == "setnodeid")) {
    reply_error(call.out, "ERR the servers elect their master themselves: see election-peers");
  } else if (what == "setnodes") {
    set_nodes(call);
  } else if (what == "setnodeid" && count == 3) {
    std::string error;
    if (call.server.cluster().set_my_id(call.args[2], error)) {
      call.server.follow_topology();
      reply_simple(call.out, "OK");
    } else {
      reply_error(call.out, "ERR " + error);
    }
  } else {
    reply_error(call.out,
                "ERR CLUSTERX command, CLUSTERX VERSION|MYID|SETNODEID|SETNODES|HEARTBEAT|NONCE|DRAIN");
  }
}

void asking(Call& call) { reply_simple(call.out, "OK"); }

void readonly(Call& call) {
  call.connection.reads_from_replica = true;
  reply_simple(call.out, "OK");
}

void readwrite(Call& call) {
  call.connection.reads_from_replica = false;
  reply_simple(call.out, "OK");
}

}  // namespace

const std::vector<CommandSpec>& cluster_commands() {
  static const std::vector<CommandSpec> commands = {
      {"cluster", -2, 0, 0, 0, 0, cluster},
      {"clusterx", -2, kControlLane | kNotInMulti, 0, 0, 0, clusterx},
      // Slots do not migrate here, so nobody is sent on with ASK; a client that asks all the same is answered.
      {"asking", 1, 0, 0, 0, 0, asking},
      {"readonly", 1, 0, 0, 0, 0, readonly},
      {"readwrite", 1, 0, 0, 0, 0, readwrite},
  };
  return commands;
}

}  // namespace kvgate
