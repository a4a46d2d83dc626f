// Tenure for C++17: a header-only layer over tenure.h and tenure_gate.h.
//
// Objects own their handles, are move-only, and free them; a grant releases its lock when it goes out of scope. Calls that can fail return
// Result<T>, which has to be looked at. Nothing here throws, Result::value() apart, and that only when exceptions are
// enabled; the header compiles with -fno-exceptions and -fno-rtti. Durations are std::chrono's, rounded up to milliseconds.
// Any thread may use any object, as long as none moves or destroys it meanwhile. What a call does, and from where it may be
// called, is said at the C function of the same name in tenure.h.
#ifndef TENURE_HPP
#define TENURE_HPP

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "tenure.h"
#include "tenure_gate.h"

#if defined(__cpp_exceptions)
#include <stdexcept>
#endif

namespace tenure {

using std::chrono::milliseconds;

// A timeout that never runs out.
inline constexpr milliseconds forever = milliseconds::max();

namespace detail {

inline tenure_bytes bytes(std::string_view s) noexcept { return {s.data(), s.size()}; }

inline std::string_view view(tenure_bytes b) noexcept { return {static_cast<const char*>(b.ptr), b.len}; }

// Rounded up, so that what is asked for is not cut short; a negative duration is none.
template <class Rep, class Period>
uint64_t ms(std::chrono::duration<Rep, Period> d) noexcept {
  if (d <= d.zero()) return 0;
  // In floating point, because the largest count of one unit is an overflow in another.
  const long double exact = std::chrono::duration<long double, std::milli>(d).count();
  if (exact >= static_cast<long double>(forever.count())) return TENURE_FOREVER;
  const auto whole = static_cast<uint64_t>(exact);
  return static_cast<long double>(whole) < exact ? whole + 1 : whole;
}

// What came out of the library as a count of ms; a chrono count is signed.
inline milliseconds from_ms(uint64_t n) noexcept {
  const auto most = static_cast<uint64_t>(milliseconds::max().count());
  return milliseconds(static_cast<milliseconds::rep>(n < most ? n : most));
}

// Runs a host's function where nothing may be thrown.
template <class F>
void contained(F&& f) noexcept {
#if defined(__cpp_exceptions)
  try {
    f();
  } catch (...) {
    // The library's thread has nobody to tell. What the function owned has been destroyed on the way here.
  }
#else
  f();
#endif
}

}  // namespace detail

// What went wrong. A copy of tenure_error: small, flat, no allocation.
class Error {
 public:
  explicit Error(const tenure_error& raw) noexcept : raw_(raw) {}

  // The tenure_status, and its name, for example "TENURE_HELD".
  int32_t code() const noexcept { return raw_.status; }
  const char* name() const noexcept { return tenure_status_name(raw_.status); }
  // One sentence that names the argument, file, key or limit concerned.
  std::string_view message() const noexcept { return raw_.message; }
  bool retriable() const noexcept { return (raw_.flags & TENURE_IS_RETRIABLE) != 0; }
  bool maybe_applied() const noexcept { return (raw_.flags & TENURE_IS_MAYBE_APPLIED) != 0; }
  bool fatal() const noexcept { return (raw_.flags & TENURE_IS_FATAL) != 0; }
  // The fencing token or epoch that it is about, or 0.
  uint64_t token() const noexcept { return raw_.token; }
  int os_errno() const noexcept { return raw_.os_errno; }
  // After how long the same call can succeed, where that is known (TENURE_TOO_EARLY); or zero.
  milliseconds retry_after() const noexcept { return detail::from_ms(raw_.retry_after_ms); }

 private:
  tenure_error raw_;
};

#if defined(__cpp_exceptions)
// What Result::value() throws.
class Exception : public std::runtime_error {
 public:
  explicit Exception(const Error& e) : std::runtime_error(std::string(e.name()) + ": " + std::string(e.message())), error_(e) {}
  const Error& error() const noexcept { return error_; }

 private:
  Error error_;
};
#endif

namespace detail {
[[noreturn]] inline void bad_access([[maybe_unused]] const Error& e) {
#if defined(__cpp_exceptions)
  throw Exception(e);
#else
  std::abort();
#endif
}
}  // namespace detail

// A value or an Error.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
  Result(const Error& error) : state_(std::in_place_index<1>, error) {}

  bool has_value() const noexcept { return state_.index() == 0; }
  explicit operator bool() const noexcept { return has_value(); }
  // Only with a value.
  T& operator*() & noexcept { return *std::get_if<0>(&state_); }
  const T& operator*() const& noexcept { return *std::get_if<0>(&state_); }
  T&& operator*() && noexcept { return std::move(*std::get_if<0>(&state_)); }
  T* operator->() noexcept { return std::get_if<0>(&state_); }
  const T* operator->() const noexcept { return std::get_if<0>(&state_); }
  // Only without one.
  const Error& error() const noexcept { return *std::get_if<1>(&state_); }
  // The value; without one it throws Exception, or ends the program where exceptions are off.
  T& value() & { return has_value() ? **this : (detail::bad_access(error()), **this); }
  T&& value() && { return has_value() ? std::move(**this) : (detail::bad_access(error()), std::move(**this)); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() noexcept = default;
  Result(const Error& error) : error_(error) {}

  bool has_value() const noexcept { return !error_; }
  explicit operator bool() const noexcept { return has_value(); }
  const Error& error() const noexcept { return *error_; }
  void value() const {
    if (error_) detail::bad_access(*error_);
  }

 private:
  std::optional<Error> error_;
};

namespace detail {

// A handle and its free function; 0 when moved from.
template <class H, void (*Free)(H)>
class Handle {
 public:
  Handle() noexcept = default;
  explicit Handle(H h) noexcept : h_(h) {}
  Handle(Handle&& other) noexcept : h_(std::exchange(other.h_, H{0})) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      Free(h_);
      h_ = std::exchange(other.h_, H{0});
    }
    return *this;
  }
  ~Handle() { Free(h_); }
  H get() const noexcept { return h_; }

 private:
  H h_{0};
};

// Runs `call(&err)` and makes a Result of its end.
template <class F>
Result<void> checked(F&& call) {
  tenure_error err;
  if (call(&err) == TENURE_OK) return {};
  return Error(err);
}

// Fetches a text whose length the library says.
template <class F>
Result<std::string> fetch(F&& call) {
  std::string text(255, '\0');
  for (;;) {
    size_t needed = 0;
    tenure_error err;
    const int32_t status = call(&text[0], text.size() + 1, &needed, &err);
    if (status == TENURE_OK) {
      text.resize(needed - 1);
      return text;
    }
    if (status != TENURE_BUFFER_TOO_SMALL) return Error(err);
    text.resize(needed - 1);
  }
}

}  // namespace detail

// Settings by name; docs/configuration.md lists them.
class Config {
 public:
  static Result<Config> create() {
    tenure_error err;
    tenure_config c;
    if (tenure_config_new(&c, &err) != TENURE_OK) return Error(err);
    return Config(c);
  }
  using Settings = std::initializer_list<std::pair<std::string_view, std::string_view>>;
  static Result<Config> of(Settings settings) {
    auto config = create();
    for (const auto& [name, value] : settings) {
      if (!config) break;
      if (auto set = config->set(name, value); !set) return set.error();
    }
    return config;
  }

  Result<void> set(std::string_view name, std::string_view value) {
    return detail::checked([&](tenure_error* e) { return tenure_config_set(get(), detail::bytes(name), detail::bytes(value), e); });
  }
  Result<std::string> get(std::string_view name) const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_config_get(get(), detail::bytes(name), buf, len, needed, e);
    });
  }
  // `name = value` lines: all of them or none.
  Result<void> load(std::string_view lines) {
    return detail::checked([&](tenure_error* e) { return tenure_config_load(get(), detail::bytes(lines), e); });
  }
  tenure_config get() const noexcept { return handle_.get(); }

 private:
  explicit Config(tenure_config c) noexcept : handle_(c) {}
  detail::Handle<tenure_config, tenure_config_free> handle_;
};

// What is asked of a lock.
struct LockOptions {
  tenure_lock_mode mode = TENURE_LOCK_MODE_EXCLUSIVE;
  milliseconds ttl{10'000};
  // The caller renews; otherwise the library does.
  bool manual = false;
  bool reentrant = false;
  milliseconds lock_delay{0};
  // For TENURE_LOCK_MODE_PERMITS.
  uint32_t permits = 1;
  uint32_t permits_limit = 1;
  // Shown to whoever asks for the holder; lent for the call.
  std::string_view metadata{};

  tenure_lock_opts raw() const noexcept {
    tenure_lock_opts o = TENURE_LOCK_OPTS_INIT;
    o.flags = (manual ? TENURE_LOCK_MANUAL : 0u) | (reentrant ? TENURE_LOCK_REENTRANT : 0u);
    o.mode = static_cast<int32_t>(mode);
    o.permits = permits;
    o.permits_limit = permits_limit;
    o.ttl_ms = detail::ms(ttl);
    o.lock_delay_ms = detail::ms(lock_delay);
    o.metadata = detail::bytes(metadata);
    return o;
  }
};

// A lock that is held. Its destructor gives it back, without waiting.
class Grant {
 public:
  Grant(tenure_session session, std::string key, uint64_t token) noexcept : session_(session), key_(std::move(key)), token_(token) {}
  Grant(Grant&& other) noexcept
      : session_(other.session_), key_(std::move(other.key_)), token_(std::exchange(other.token_, 0)) {}
  Grant& operator=(Grant&& other) noexcept {
    if (this != &other) {
      drop();
      session_ = other.session_;
      key_ = std::move(other.key_);
      token_ = std::exchange(other.token_, 0);
    }
    return *this;
  }
  ~Grant() { drop(); }

  const std::string& key() const noexcept { return key_; }
  // The fencing token: hand it to whatever the lock protects.
  uint64_t token() const noexcept { return token_; }
  // For how long this process may believe to hold the lock; zero when it is lost, or when that cannot be learnt. Asks nobody, unless the
  // grant is one that its caller renews: then the ledger, and in a cluster waits for as long as a read may.
  milliseconds remaining() const noexcept {
    uint64_t left = 0;
    if (token_ != 0) tenure_session_remaining(session_, detail::bytes(key_), token_, &left, nullptr);
    return detail::from_ms(left);
  }
  bool lost() const noexcept { return remaining() == milliseconds::zero(); }
  // At least `left` is left; an error when it is not. Asks nobody.
  Result<milliseconds> ensure(milliseconds left) const {
    uint64_t have = 0;
    tenure_error err;
    if (tenure_session_ensure(session_, detail::bytes(key_), token_, detail::ms(left), &have, &err) != TENURE_OK) return Error(err);
    return detail::from_ms(have);
  }
  // Why it was lost, as a word; empty while it is held.
  Result<std::string> loss() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_session_loss(session_, token_, buf, len, needed, e); });
  }
  // Replaces what it shows to whoever asks for the holder, or watches it.
  Result<void> annotate(std::string_view metadata) {
    return detail::checked([&](tenure_error* e) {
      return tenure_session_annotate(session_, detail::bytes(key_), token_, detail::bytes(metadata), e);
    });
  }
  Result<milliseconds> renew(milliseconds ttl) {
    uint64_t left = 0;
    tenure_error err;
    if (tenure_session_renew(session_, detail::bytes(key_), token_, detail::ms(ttl), &left, &err) != TENURE_OK) return Error(err);
    return detail::from_ms(left);
  }
  // Gives the lock back and says whether it was still held.
  Result<void> release() {
    const uint64_t token = std::exchange(token_, 0);
    return detail::checked([&](tenure_error* e) { return tenure_session_release(session_, detail::bytes(key_), token, e); });
  }
  // Gives the token up to the caller, who releases it by the session.
  uint64_t detach() noexcept { return std::exchange(token_, 0); }

 private:
  void drop() noexcept {
    if (token_ != 0) tenure_session_release_later(session_, detail::bytes(key_), token_);
  }
  tenure_session session_;
  std::string key_;
  uint64_t token_;
};

struct Holder {
  std::string node;
  uint64_t token;
  milliseconds remaining;
};

// A holder as far as one node knows, which may be as old as `age`.
struct LocalHolder {
  // Empty when nobody holds the lock.
  std::string node;
  uint64_t token;
  uint64_t applied;
  milliseconds age;
};

// Who leads, and what it has proclaimed.
struct Leader {
  uint64_t token;
  std::string value;
};

// A started acquisition, for Session::cancel().
struct Operation {
  uint64_t number;
};

// An identity that holds locks.
class Session {
 public:
  explicit Session(tenure_session s) noexcept : handle_(s) {}

  // The lock, or nothing when another has it (or it is in its lock-delay).
  Result<std::optional<Grant>> try_acquire(std::string_view key, const LockOptions& options = {}) {
    const tenure_lock_opts o = options.raw();
    uint64_t token = 0;
    tenure_error err;
    const int32_t status = tenure_session_try_acquire(get(), detail::bytes(key), &o, &token, &err);
    if (status == TENURE_OK) return std::optional<Grant>(std::in_place, get(), std::string(key), token);
    if (status == TENURE_HELD || status == TENURE_LOCK_DELAY) return std::optional<Grant>();
    return Error(err);
  }

  Result<Grant> acquire(std::string_view key, milliseconds timeout, const LockOptions& options = {}) {
    const tenure_lock_opts o = options.raw();
    uint64_t token = 0;
    tenure_error err;
    if (tenure_session_acquire(get(), detail::bytes(key), &o, detail::ms(timeout), &token, &err) != TENURE_OK) return Error(err);
    return Grant(get(), std::string(key), token);
  }

  // All of the locks or none.
  Result<std::vector<Grant>> acquire_all(const std::vector<std::string_view>& keys, milliseconds timeout, const LockOptions& options = {}) {
    const tenure_lock_opts o = options.raw();
    std::vector<tenure_bytes> names;
    for (auto key : keys) names.push_back(detail::bytes(key));
    std::vector<uint64_t> tokens(keys.size() + 1);
    tenure_error err;
    if (tenure_session_acquire_all(get(), names.data(), names.size(), &o, detail::ms(timeout), tokens.data(), &err) != TENURE_OK)
      return Error(err);
    std::vector<Grant> grants;
    grants.reserve(keys.size());
    for (size_t i = 0; i < keys.size(); i++) grants.emplace_back(get(), std::string(keys[i]), tokens[i]);
    return grants;
  }

  // Calls `done` exactly once, on the library's thread or in Node::dispatch(). A grant that it lets go is given back. What it throws is dropped.
  Result<Operation> acquire_async(std::string_view key, milliseconds timeout, const LockOptions& options,
                                  std::function<void(Result<Grant>)> done) {
    const tenure_lock_opts o = options.raw();
    auto call = std::make_unique<Acquisition>(Acquisition{get(), std::string(key), std::move(done)});
    uint64_t op = 0;
    tenure_error err;
    if (tenure_session_acquire_async(get(), detail::bytes(key), &o, detail::ms(timeout), &Acquisition::ended, call.get(), &op, &err) != TENURE_OK)
      return Error(err);
    call.release();
    return Operation{op};
  }

  std::future<Result<Grant>> acquire_future(std::string_view key, milliseconds timeout, const LockOptions& options = {}) {
    auto promise = std::make_shared<std::promise<Result<Grant>>>();
    auto future = promise->get_future();
    auto started = acquire_async(key, timeout, options, [promise](Result<Grant> ended) { promise->set_value(std::move(ended)); });
    if (!started) promise->set_value(started.error());
    return future;
  }

  // False when it has ended already.
  bool cancel(Operation op) noexcept {
    bool cancelled = false;
    tenure_session_cancel(get(), op.number, &cancelled, nullptr);
    return cancelled;
  }

  Result<void> release(std::string_view key, uint64_t token) {
    return detail::checked([&](tenure_error* e) { return tenure_session_release(get(), detail::bytes(key), token, e); });
  }
  Result<uint64_t> release_all() {
    uint64_t count = 0;
    tenure_error err;
    if (tenure_session_release_all(get(), &count, &err) != TENURE_OK) return Error(err);
    return count;
  }
  // For operators: takes the lock away from whoever has it; false when nobody had.
  Result<bool> force_release(std::string_view key, milliseconds delay) {
    bool released = false;
    tenure_error err;
    if (tenure_session_force_release(get(), detail::bytes(key), detail::ms(delay), &released, &err) != TENURE_OK) return Error(err);
    return released;
  }
  Result<std::optional<Holder>> holder(std::string_view key) const {
    char name[128];
    size_t needed = 0;
    uint64_t token = 0, left = 0;
    tenure_error err;
    if (tenure_session_holder(get(), detail::bytes(key), name, sizeof name, &needed, &token, &left, &err) != TENURE_OK) return Error(err);
    if (token == 0) return std::optional<Holder>();
    return std::optional<Holder>(Holder{name, token, detail::from_ms(left)});
  }
  Result<LocalHolder> holder_local(std::string_view key) const {
    char name[128];
    size_t needed = 0;
    uint64_t token = 0, applied = 0, age = 0;
    tenure_error err;
    if (tenure_session_holder_local(get(), detail::bytes(key), name, sizeof name, &needed, &token, &applied, &age, &err) != TENURE_OK)
      return Error(err);
    return LocalHolder{name, token, applied, detail::from_ms(age)};
  }
  // JSON: the holders and the queue, in order.
  Result<std::string> contenders(std::string_view key) const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_session_contenders(get(), detail::bytes(key), buf, len, needed, e);
    });
  }
  // Asks the holders to give the lock back, with an event that says why; takes it away after `force_after`, if given. How many were asked.
  Result<uint64_t> revoke(std::string_view key, std::string_view why, std::optional<milliseconds> force_after = {}, uint64_t token = 0) {
    uint64_t asked = 0;
    tenure_error err;
    const uint64_t after = force_after ? detail::ms(*force_after) : TENURE_FOREVER;
    if (tenure_session_revoke(get(), detail::bytes(key), token, detail::bytes(why), after, &asked, &err) != TENURE_OK) return Error(err);
    return asked;
  }
  // The proof of who owns the session, for Node::take_over() by a later process: 16 bytes.
  Result<std::string> secret() const {
    std::string secret(TENURE_SECRET_SIZE, '\0');
    tenure_error err;
    if (tenure_session_secret(get(), reinterpret_cast<uint8_t*>(&secret[0]), &err) != TENURE_OK) return Error(err);
    return secret;
  }
  // JSON: the locks that came with a session that this one has taken over.
  Result<std::string> inherited() const {
    return detail::fetch(
        [&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_session_inherited(get(), buf, len, needed, e); });
  }
  // Ends the session. The node's own ends with the node.
  Result<void> close() {
    return detail::checked([&](tenure_error* e) { return tenure_session_close(get(), e); });
  }
  tenure_session get() const noexcept { return handle_.get(); }

 private:
  struct Acquisition {
    tenure_session session;
    std::string key;
    std::function<void(Result<Grant>)> done;

    static void ended(void* user, int32_t status, uint64_t token, const tenure_error* err) noexcept {
      std::unique_ptr<Acquisition> self(static_cast<Acquisition*>(user));
      detail::contained([&] {
        if (status == TENURE_OK)
          self->done(Grant(self->session, std::move(self->key), token));
        else
          self->done(Error(*err));
      });
    }
  };
  detail::Handle<tenure_session, tenure_session_free> handle_;
};

// Leadership of an election. Its destructor resigns, without waiting.
class Leadership {
 public:
  explicit Leadership(Grant grant) noexcept : grant_(std::move(grant)) {}
  // The leader's term: larger than that of every leader before it.
  uint64_t token() const noexcept { return grant_.token(); }
  const Grant& grant() const noexcept { return grant_; }
  Result<void> proclaim(std::string_view value) { return grant_.annotate(value); }
  Result<void> resign() { return grant_.release(); }

 private:
  Grant grant_;
};

// An election, as one session takes part in it: the lock of its name, whose holder leads. Node::watch(name) tells who leads and what is
// proclaimed. The session must outlive it.
class Election {
 public:
  Election(const Session& session, std::string name, milliseconds ttl = milliseconds(10'000))
      : session_(session.get()), name_(std::move(name)), ttl_(ttl) {}

  Result<Leadership> campaign(std::string_view value, milliseconds timeout) {
    uint64_t token = 0;
    tenure_error err;
    if (tenure_election_campaign(session_, detail::bytes(name_), detail::bytes(value), detail::ms(ttl_), detail::ms(timeout), &token, &err) !=
        TENURE_OK)
      return Error(err);
    return Leadership(Grant(session_, name_, token));
  }
  // Nothing when nobody leads.
  Result<std::optional<Leader>> leader() const {
    uint64_t token = 0;
    auto value = detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_election_leader(session_, detail::bytes(name_), buf, len, needed, &token, e);
    });
    if (!value) return value.error();
    if (token == 0) return std::optional<Leader>();
    return std::optional<Leader>(Leader{token, std::move(*value)});
  }

 private:
  tenure_session session_;
  std::string name_;
  milliseconds ttl_;
};

}  // namespace tenure

#include "tenure_gate.hpp"
#include "tenure_node.hpp"
#include "tenure_lock.hpp"
#include "tenure_fence.hpp"
#include "tenure_granter.hpp"
#include "tenure_plug.hpp"
#include "tenure_orchestrator.hpp"
#include "tenure_maintenance.hpp"

#endif  // TENURE_HPP
