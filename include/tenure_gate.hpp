// The write gate for C++17. Included by tenure.hpp.
#ifndef TENURE_GATE_HPP
#define TENURE_GATE_HPP

#include "tenure.hpp"

namespace tenure {

// Leave to write, counted until it ends: a drain waits for it. Everything here is inline and does not allocate.
//
//     tenure::Permit permit = gate.enter();
//     if (!permit) return refuse(permit.reason_name());
//     write(batch, permit.epoch());
//     if (permit.finish()) acknowledge(); else report_uncertain();
class Permit {
 public:
  explicit Permit(const tenure_gate_cell* cell) noexcept : reason_(tenure_gate_enter(cell, &raw_)) {}
  Permit(const tenure_gate_cell* cell, uint32_t write_class) noexcept : reason_(tenure_gate_enter_class(cell, write_class, &raw_)) {}
  Permit(Permit&& other) noexcept : raw_(other.raw_), reason_(std::exchange(other.reason_, TENURE_GATE_CLOSED)) {}
  Permit& operator=(Permit&&) = delete;
  // A permit that was not finished is given up: no verdict, nothing may be acknowledged.
  ~Permit() {
    if (reason_ == TENURE_GATE_GRANTED) tenure_gate_leave(&raw_);
  }

  // Whether the write is let in.
  explicit operator bool() const noexcept { return reason_ == TENURE_GATE_GRANTED; }
  // Why not: TENURE_GATE_EXPIRED, ..., and its name.
  int32_t reason() const noexcept { return reason_; }
  const char* reason_name() const noexcept { return tenure_gate_reason_name(reason_); }
  // To be stored with the write.
  uint64_t epoch() const noexcept { return raw_.epoch; }
  // Right before the irrevocable step: could the write still be acknowledged if it were done now?
  bool precommit() const noexcept { return reason_ == TENURE_GATE_GRANTED && tenure_gate_precommit(&raw_) == TENURE_GATE_HELD; }
  // When the effect is complete and before it is acknowledged. True: acknowledge. False: it must not be. Ends the permit.
  [[nodiscard]] bool finish() noexcept {
    if (std::exchange(reason_, TENURE_GATE_CLOSED) != TENURE_GATE_GRANTED) return false;
    return tenure_gate_finish(&raw_) == TENURE_GATE_HELD;
  }

 private:
  tenure_gate_permit raw_;
  int32_t reason_;
};

struct Heartbeat {
  uint64_t epoch;
  milliseconds ttl;
  std::optional<uint64_t> nonce{};
};

struct HeartbeatReply {
  bool accepted;
  uint64_t epoch;
  milliseconds remaining;
  uint64_t next_nonce;
  // Why it was not accepted: "no_nonce", ...; static text.
  std::string_view reason;
};

// A write gate. Its destructor closes it.
class Gate {
 public:
  // Takes the handle over.
  static Result<Gate> adopt(tenure_gate handle) {
    Gate gate(handle);
    tenure_error err;
    if (tenure_gate_cell_of(handle, &gate.cell_, &err) != TENURE_OK) return Error(err);
    return gate;
  }

  Permit enter() const noexcept { return Permit(cell_); }
  // One of TENURE_GATE_CLIENT, TENURE_GATE_REPLICATION, TENURE_GATE_BOOTSTRAP, TENURE_GATE_DEFERRABLE.
  Permit enter(uint32_t write_class) const noexcept { return Permit(cell_, write_class); }
  // Whether a write would be let in now; no drain waits for what follows.
  bool check(uint64_t* epoch = nullptr) const noexcept { return tenure_gate_check(cell_, epoch) == TENURE_GATE_GRANTED; }
  // For receivers of records: 0 when `epoch` may write here, else the highest epoch seen.
  uint64_t check_epoch(uint64_t epoch) const noexcept { return tenure_gate_check_epoch(cell_, epoch); }

  // "disabled", "log-only" or "block-write".
  Result<std::string_view> mode() const {
    const char* word = nullptr;
    tenure_error err;
    if (tenure_gate_mode(get(), &word, &err) != TENURE_OK) return Error(err);
    return std::string_view(word);
  }
  Result<void> set_mode(std::string_view mode) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_set_mode(get(), detail::bytes(mode), e); });
  }

  Result<HeartbeatReply> heartbeat(const Heartbeat& beat) {
    tenure_heartbeat in = TENURE_HEARTBEAT_INIT;
    tenure_heartbeat_reply out = TENURE_HEARTBEAT_REPLY_INIT;
    in.epoch = beat.epoch;
    in.ttl_ms = detail::ms(beat.ttl);
    if (beat.nonce) {
      in.flags = TENURE_HEARTBEAT_NONCE;
      in.nonce = *beat.nonce;
    }
    tenure_error err;
    if (tenure_gate_heartbeat(get(), &in, &out, &err) != TENURE_OK) return Error(err);
    return HeartbeatReply{out.accepted != 0, out.epoch, detail::from_ms(out.remaining_ms), out.next_nonce, out.reason};
  }
  Result<uint64_t> next_nonce() {
    uint64_t nonce = 0;
    tenure_error err;
    if (tenure_gate_next_nonce(get(), &nonce, &err) != TENURE_OK) return Error(err);
    return nonce;
  }
  // The host is alive: for the setting gate.beat_timeout_ms.
  void beat() noexcept { tenure_gate_beat(get(), nullptr); }
  Result<void> observe(uint64_t epoch, std::string_view holder) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_observe(get(), epoch, detail::bytes(holder), e); });
  }
  Result<void> reset() {
    return detail::checked([&](tenure_error* e) { return tenure_gate_reset(get(), e); });
  }
  Result<void> hold(std::string_view key, milliseconds ttl) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_hold(get(), detail::bytes(key), detail::ms(ttl), e); });
  }
  Result<void> drain(milliseconds timeout) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_drain(get(), detail::ms(timeout), e); });
  }
  Result<void> resign(milliseconds timeout) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_resign(get(), detail::ms(timeout), e); });
  }
  Result<void> resign_to(std::string_view node, milliseconds timeout) {
    return detail::checked([&](tenure_error* e) { return tenure_gate_resign_to(get(), detail::bytes(node), detail::ms(timeout), e); });
  }
  Result<void> close() {
    return detail::checked([&](tenure_error* e) { return tenure_gate_close(get(), e); });
  }
  // JSON.
  Result<std::string> status() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_gate_status(get(), buf, len, needed, e); });
  }
  tenure_gate get() const noexcept { return handle_.get(); }
  const tenure_gate_cell* cell() const noexcept { return cell_; }

 private:
  explicit Gate(tenure_gate handle) noexcept : handle_(handle) {}
  detail::Handle<tenure_gate, tenure_gate_free> handle_;
  const tenure_gate_cell* cell_ = nullptr;
};

}  // namespace tenure

#endif  // TENURE_GATE_HPP
