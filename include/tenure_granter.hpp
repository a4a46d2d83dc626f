// The granter's side of an office for C++17. Included by tenure.hpp.
#ifndef TENURE_GRANTER_HPP
#define TENURE_GRANTER_HPP

#include "tenure.hpp"

namespace tenure {

// What to send to a holder, who passes it to Gate::heartbeat().
struct Order {
  std::string holder;
  Heartbeat heartbeat;
};

// Gives offices to others and keeps them alive, as long as it holds its own lock. Its destructor gives that lock back, without waiting.
class Granter {
 public:
  static Result<Granter> open(const Node& node, std::string_view lock, milliseconds ttl, milliseconds timeout) {
    tenure_granter g;
    tenure_error err;
    if (tenure_granter_open(node.get(), detail::bytes(lock), detail::ms(ttl), detail::ms(timeout), &g, &err) != TENURE_OK) return Error(err);
    return Granter(g);
  }

  uint64_t term() const noexcept {
    uint64_t term = 0;
    tenure_granter_term(get(), &term, nullptr, nullptr);
    return term;
  }
  bool in_office() const noexcept {
    uint64_t term = 0;
    bool held = false;
    return tenure_granter_term(get(), &term, &held, nullptr) == TENURE_OK && held;
  }
  // The new epoch: `epoch`, or one above the last for 0. TENURE_TOO_EARLY, with retry_after(), while the former holder may act.
  Result<uint64_t> promote(std::string_view office, std::string_view holder, uint64_t epoch = 0) {
    uint64_t given = 0;
    tenure_error err;
    if (tenure_granter_promote(get(), detail::bytes(office), detail::bytes(holder), epoch, &given, &err) != TENURE_OK) return Error(err);
    return given;
  }
  Result<Order> heartbeat(std::string_view office, milliseconds ttl, std::optional<uint64_t> nonce) {
    tenure_heartbeat h;
    char holder[65];
    size_t needed = 0;
    tenure_error err;
    const uint64_t* own = nonce ? &*nonce : nullptr;
    if (tenure_granter_heartbeat(get(), detail::bytes(office), detail::ms(ttl), own, &h, holder, sizeof holder, &needed, &err) != TENURE_OK) {
      return Error(err);
    }
    return Order{std::string(holder, needed - 1), Heartbeat{h.epoch, ttl, nonce}};
  }
  Result<void> acknowledge(std::string_view office, uint64_t epoch) {
    return detail::checked([&](tenure_error* e) { return tenure_granter_acknowledge(get(), detail::bytes(office), epoch, e); });
  }
  Result<void> resign() {
    return detail::checked([&](tenure_error* e) { return tenure_granter_resign(get(), e); });
  }
  tenure_granter get() const noexcept { return handle_.get(); }

 private:
  explicit Granter(tenure_granter g) noexcept : handle_(g) {}
  detail::Handle<tenure_granter, tenure_granter_free> handle_;
};

}  // namespace tenure

#endif  // TENURE_GRANTER_HPP
