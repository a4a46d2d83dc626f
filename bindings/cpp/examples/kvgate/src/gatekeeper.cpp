#include "gatekeeper.hpp"

#include "log.hpp"
#include "status_text.hpp"

namespace kvgate {

namespace {

// A replica has no writes in flight, so that giving up an office takes the time of one request.
constexpr std::chrono::milliseconds kStepAside{2'000};

void log_from_library(tenure_log_level level, std::string_view target, std::string_view message) {
  std::string text = "tenure ";
  text += target;
  text += ": ";
  text += message;
  log_line(level <= TENURE_LOG_LEVEL_ERROR  ? LogLevel::kError
           : level == TENURE_LOG_LEVEL_WARN ? LogLevel::kWarning
                                            : LogLevel::kInfo,
           text);
}

// Whether it succeeded; the message otherwise.
template <class Outcome>
bool succeeded(const Outcome& outcome, std::string& error) {
  if (outcome) return true;
  error = outcome.error().message();
  return false;
}

}  // namespace

bool Gatekeeper::open(const GateSettings& settings, std::string& error) {
  settings_ = settings;
  if (!succeeded(tenure::set_log(TENURE_LOG_LEVEL_INFO, log_from_library), error)) return false;
  tenure::Result<tenure::Config> node_settings = tenure::Config::create();
  if (!succeeded(node_settings, error)) return false;
  // The node keeps epochs and one lock here: small segments of its log do, and open faster.
  std::vector<std::pair<std::string, std::string>> all = {{"data_dir", settings.data_dir}, {"wal_segment_bytes", "1048576"}};
  all.insert(all.end(), settings.node.begin(), settings.node.end());
  for (const auto& [name, value] : all) {
    if (!succeeded(node_settings->set(name, value), error)) return false;
  }
  tenure::Result<tenure::Node> node = tenure::Node::open(*node_settings);
  if (!succeeded(node, error)) return false;
  node_.emplace(std::move(*node));
  tenure::Result<std::string> id = node_->id();
  if (!succeeded(id, error)) return false;
  node_id_ = *id;
  tenure::Result<tenure::Session> session = node_->session();
  if (!succeeded(session, error)) return false;
  session_.emplace(std::move(*session));
  const char* const trust = settings.trust_receipt ? "true" : "false";
  tenure::Result<tenure::Gate> gate = node_->gate(
      "master", {{"gate.mode", settings.mode}, {"gate.trust_receipt", trust}});
  if (!succeeded(gate, error)) return false;
  gate_.emplace(std::move(*gate));
  blocks_.store(settings.mode == "block-write");
  return true;
}

void Gatekeeper::close() {
  gate_.reset();
  session_.reset();
  node_.reset();
  const tenure::Result<void> silent = tenure::set_log(TENURE_LOG_LEVEL_OFF, nullptr);
  static_cast<void>(silent);
}

Admission Gatekeeper::enter_office(uint32_t write_class) {
  const bool blocks = blocks_.load(std::memory_order_relaxed);
  tenure::Permit permit = gate_->enter(write_class);
  if (permit && blocks && !confirmed(permit.epoch())) return Admission("not_taken_up");
  return Admission(std::move(permit), blocks, nullptr);
}

Admission Gatekeeper::enter(WriteClass write_class) {
  if (write_class == WriteClass::kClient) return enter_office(TENURE_GATE_CLIENT);
  if (write_class == WriteClass::kDeferrable) return enter_office(TENURE_GATE_DEFERRABLE);
  if (write_class == WriteClass::kBootstrap) {
    if (serving_.load()) return Admission("serving");
    return Admission(gate_->enter(TENURE_GATE_BOOTSTRAP), false, nullptr);
  }
  // Counted before the role is read: a new master is granted office only when no batch of the old
  // one's is on its way.
  replicating_.fetch_add(1);
  if (role_.load() != Role::kReplica) {
    replicating_.fetch_sub(1);
    return Admission("not_replica");
  }
  return Admission(gate_->enter(TENURE_GATE_REPLICATION), false, &replicating_);
}

bool Gatekeeper::may_read() const {
  uint64_t epoch = 0;
  return role() == Role::kReplica || (gate_->check(&epoch) && (!blocks_.load() || confirmed(epoch)));
}

std::optional<uint64_t> Gatekeeper::open_epoch() const {
  if (!blocks_.load()) return std::nullopt;
  // A look of the server's own: a refusal is not to be counted among those of writes.
  const tenure::Permit look = gate_->enter(TENURE_GATE_DEFERRABLE);
  return look ? std::optional<uint64_t>(look.epoch()) : std::nullopt;
}

HeartbeatReply Gatekeeper::unrenewed(const char* reason) {
  HeartbeatReply reply;
  reply.reason = reason;
  reply.epoch = epoch_seen();
  reply.next_nonce = issue_nonce();
  return reply;
}

HeartbeatReply Gatekeeper::heartbeat(const tenure::Heartbeat& beat) {
  if (!settings_.own_lease_key.empty()) return unrenewed("own_lease");
  if (role() == Role::kReplica) return unrenewed("not_master");
  if (replicating_.load() != 0) return unrenewed("replicating");
  const tenure::Result<tenure::HeartbeatReply> taken = gate_->heartbeat(beat);
  HeartbeatReply reply;
  if (!taken) {
    reply.stale = taken.error().code() == TENURE_FENCED;
    reply.epoch = taken.error().token();
    reply.error = taken.error().message();
    return reply;
  }
  reply.accepted = taken->accepted;
  reply.epoch = taken->epoch;
  reply.remaining_ms = static_cast<uint64_t>(taken->remaining.count());
  reply.next_nonce = taken->next_nonce;
  reply.reason = taken->reason;
  return reply;
}

HeartbeatReply Gatekeeper::heartbeat_for(const std::string& node_id, uint64_t epoch) {
  const bool news = epoch > epoch_seen();
  const tenure::Result<void> observed = gate_->observe(epoch, node_id);
  if (observed && news) {
    std::lock_guard<std::mutex> guard(holder_mutex_);
    holder_ = node_id;
  }
  HeartbeatReply reply = unrenewed("other_node");
  if (!observed && observed.error().code() != TENURE_FENCED) {
    reply.error = observed.error().message();
  }
  return reply;
}

uint64_t Gatekeeper::issue_nonce() {
  const tenure::Result<uint64_t> nonce = gate_->next_nonce();
  return nonce ? *nonce : 0;
}

void Gatekeeper::set_role(Role role) {
  role_.store(role);
  // Where the servers elect among themselves the lease goes on by itself: the role follows it.
  if (settings_.stands_as_replica) return;
  std::string error;
  if (role == Role::kReplica) {
    if (!succeeded(gate_->reset(), error)) log_line(LogLevel::kError, "lease: " + error);
  } else if (serving_.load() && !hold_own_lease(error)) {
    log_line(LogLevel::kError, "cannot ask for the office: " + error);
  }
}

bool Gatekeeper::office_holder(std::string& node_id, uint64_t& epoch, std::string& error) {
  tenure::Result<std::optional<tenure::Holder>> holder = session_->holder(settings_.own_lease_key);
  if (!succeeded(holder, error) || !*holder) return false;
  node_id = (*holder)->node;
  epoch = (*holder)->token;
  return true;
}

void Gatekeeper::step_aside() {
  std::string error;
  if (!succeeded(gate_->resign(kStepAside), error)) log_line(LogLevel::kWarning, "cannot give the office up: " + error);
}

bool Gatekeeper::hold_own_lease(std::string& error) {
  return settings_.own_lease_key.empty() ||
         succeeded(gate_->hold(settings_.own_lease_key, settings_.own_lease_ttl), error);
}

bool Gatekeeper::serve(std::string& error) {
  serving_.store(true);
  return (role() == Role::kReplica && !settings_.stands_as_replica) || hold_own_lease(error);
}

bool Gatekeeper::drain(std::chrono::milliseconds timeout, std::string& error) {
  return succeeded(settings_.own_lease_key.empty() ? gate_->drain(timeout) : gate_->resign(timeout),
                   error);
}

bool Gatekeeper::set_mode(const std::string& mode, std::string& error) {
  if (!succeeded(gate_->set_mode(mode), error)) return false;
  blocks_.store(mode == "block-write");
  return true;
}

std::string Gatekeeper::refusal_detail(const char* reason) {
  std::string detail = std::string("reason=") + reason;
  detail += ", epoch=" + std::to_string(epoch_seen());
  std::lock_guard<std::mutex> guard(holder_mutex_);
  if (!holder_.empty()) detail += ", holder=" + holder_;
  return detail;
}

std::string Gatekeeper::describe_node() {
  const tenure::Result<std::string> status = node_->status();
  if (!status) return "node_error:" + std::string(status.error().message()) + "\r\n";
  return status_lines(*status, "node_");
}

std::string Gatekeeper::describe() {
  const tenure::Result<std::string> status = gate_->status();
  if (!status) return "lease_error:" + std::string(status.error().message()) + "\r\n";
  return status_lines(*status, "lease_");
}

}  // namespace kvgate
