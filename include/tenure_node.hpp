// Nodes, events and the log for C++17. Included by tenure.hpp.
#ifndef TENURE_NODE_HPP
#define TENURE_NODE_HPP

#include "tenure.hpp"

namespace tenure {

// What happened. The views are valid during the callback only.
struct Event {
  // A tenure_event_kind; ignore those you do not know.
  int32_t kind;
  uint64_t session;
  uint64_t token;
  milliseconds remaining;
  std::string_view key;
  std::string_view name;
  std::string_view text;
};

// Events go to its function until it is destroyed; then that function does not run any more, unless it is what destroys it.
class Subscription {
 public:
  using Function = std::function<void(const Event&)>;

  Subscription(Subscription&& other) noexcept = default;
  Subscription& operator=(Subscription&& other) noexcept {
    std::swap(node_, other.node_);
    std::swap(number_, other.number_);
    std::swap(end_, other.end_);
    std::swap(function_, other.function_);
    return *this;
  }
  ~Subscription() {
    if (function_) end_(node_, number_, nullptr);
  }

  static Result<Subscription> open(tenure_node node, Function f) {
    Subscription s(node, std::make_unique<std::shared_ptr<Function>>(std::make_shared<Function>(std::move(f))));
    tenure_error err;
    if (tenure_node_subscribe(node, &Subscription::call, s.function_.get(), &s.number_, &err) != TENURE_OK) {
      s.function_.reset();
      return Error(err);
    }
    return s;
  }

  // Events of a watch: TENURE_EVENT_KIND_HELD (name is the holder's, text its metadata) and TENURE_EVENT_KIND_FREED.
  static Result<Subscription> watch(tenure_node node, std::string_view name, uint32_t flags, Function f) {
    Subscription s(node, std::make_unique<std::shared_ptr<Function>>(std::make_shared<Function>(std::move(f))));
    s.end_ = &tenure_node_unwatch;
    tenure_error err;
    if (tenure_node_watch(node, detail::bytes(name), flags, &Subscription::call, s.function_.get(), &s.number_, &err) != TENURE_OK) {
      s.function_.reset();
      return Error(err);
    }
    return s;
  }

 private:
  using Box = std::unique_ptr<std::shared_ptr<Function>>;
  Subscription(tenure_node node, Box function) noexcept : node_(node), function_(std::move(function)) {}

  static void call(void* user, const tenure_event* e) noexcept {
    detail::contained([&] {
      // Its own share, in case the function destroys the subscription.
      const std::shared_ptr<Function> f = *static_cast<std::shared_ptr<Function>*>(user);
      (*f)(Event{e->kind, e->session, e->token, detail::from_ms(e->remaining_ms), detail::view(e->key), detail::view(e->name), detail::view(e->text)});
    });
  }

  tenure_node node_;
  uint64_t number_ = 0;
  int32_t (*end_)(tenure_node, uint64_t, tenure_error*) = &tenure_node_unsubscribe;
  Box function_;
};

// A node. Its destructor closes it and waits for that for at most a second.
class Node {
 public:
  // In memory.
  static Result<Node> open() { return open_with(tenure_config{0}); }
  static Result<Node> open(const Config& config) { return open_with(config.get()); }
  // For example Node::open({{"data_dir", "/var/lib/x"}, {"node_id", "a"}}).
  static Result<Node> open(Config::Settings settings) {
    auto config = Config::of(settings);
    if (!config) return config.error();
    return open_with(config->get());
  }

  // A client of the cluster whose members may be reached at `addresses` ("host:port,..."), and no member itself. Needs no disk and does not
  // wait for a member.
  static Result<Node> connect(std::string_view addresses, Config::Settings settings = {}) {
    auto config = Config::of(settings);
    if (!config) return config.error();
    tenure_node n;
    tenure_error err;
    if (tenure_client_open(detail::bytes(addresses), config->get(), &n, &err) != TENURE_OK) return Error(err);
    return Node(n);
  }

  Node(Node&&) noexcept = default;
  Node& operator=(Node&& other) noexcept {
    if (this != &other) {
      end();
      handle_ = std::move(other.handle_);
    }
    return *this;
  }
  ~Node() { end(); }

  // Takes over an open node.
  static Node adopt(tenure_node handle) noexcept { return Node(handle); }

  // The node's own session.
  Result<Session> session() const {
    tenure_session s;
    tenure_error err;
    if (tenure_node_session(get(), &s, &err) != TENURE_OK) return Error(err);
    return Session(s);
  }
  // Another identity in this process.
  Result<Session> open_session(std::string_view name, milliseconds ttl) {
    tenure_session s;
    tenure_error err;
    if (tenure_session_open(get(), detail::bytes(name), detail::ms(ttl), &s, &err) != TENURE_OK) return Error(err);
    return Session(s);
  }
  Result<Gate> gate(std::string_view name) { return gate_with(name, tenure_config{0}); }
  Result<Gate> gate(std::string_view name, const Config& config) { return gate_with(name, config.get()); }
  Result<Gate> gate(std::string_view name, Config::Settings settings) {
    auto config = Config::of(settings);
    if (!config) return config.error();
    return gate_with(name, config->get());
  }

  Result<std::string> id() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_node_id(get(), buf, len, needed, e); });
  }
  // JSON.
  Result<std::string> status() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_node_status(get(), buf, len, needed, e); });
  }
  // JSON.
  Result<std::string> locks(std::string_view prefix, size_t limit) const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_node_locks(get(), detail::bytes(prefix), limit, buf, len, needed, e);
    });
  }
  // JSON: what granters have promised.
  Result<std::string> promises(std::string_view prefix, size_t limit) const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) {
      return tenure_node_promises(get(), detail::bytes(prefix), limit, buf, len, needed, e);
    });
  }
  // For a member of a cluster: until a majority is there. Any other node is ready from its opening on.
  Result<void> wait_ready(milliseconds timeout) const {
    return detail::checked([&](tenure_error* e) { return tenure_node_wait_ready(get(), detail::ms(timeout), e); });
  }
  // JSON: who belongs to the cluster, who leads.
  Result<std::string> members() const {
    return detail::fetch([&](char* buf, size_t len, size_t* needed, tenure_error* e) { return tenure_node_members(get(), buf, len, needed, e); });
  }
  // Empty: to the member that is furthest.
  Result<void> transfer_leader(std::string_view to = {}) {
    return detail::checked([&](tenure_error* e) { return tenure_node_transfer_leader(get(), detail::bytes(to), e); });
  }
  // For good: its data directory is refused from then on.
  Result<void> remove_member(std::string_view name) {
    return detail::checked([&](tenure_error* e) { return tenure_node_remove_member(get(), detail::bytes(name), e); });
  }
  // By which the node of this id can join, once: its setting join_token.
  Result<std::string> join_token(std::string_view node_id, milliseconds ttl) {
    char token[65];
    size_t needed = 0;
    tenure_error err;
    if (tenure_node_join_token(get(), detail::bytes(node_id), detail::ms(ttl), token, sizeof token, &needed, &err) != TENURE_OK) return Error(err);
    return std::string(token);
  }
  // Destroy the subscription before the node.
  Result<Subscription> subscribe(Subscription::Function f) { return Subscription::open(get(), std::move(f)); }
  // Who holds the lock, from now on and beginning with the present. Destroy the subscription before the node.
  Result<Subscription> watch(std::string_view key, Subscription::Function f) { return Subscription::watch(get(), key, 0, std::move(f)); }
  // The same for all locks whose names begin with the prefix.
  Result<Subscription> watch_prefix(std::string_view prefix, Subscription::Function f) {
    return Subscription::watch(get(), prefix, TENURE_WATCH_PREFIX, std::move(f));
  }
  // A session in the place of another one, whose Session::secret() proves who the caller is; see tenure_node_take_over().
  Result<Session> take_over(std::string_view name, milliseconds ttl, std::string_view secret, bool keep) {
    tenure_session s;
    tenure_error err;
    if (tenure_node_take_over(get(), detail::bytes(name), detail::ms(ttl), detail::bytes(secret), keep, &s, &err) != TENURE_OK)
      return Error(err);
    return Session(s);
  }
  Result<int> event_fd() const {
    int fd = -1;
    tenure_error err;
    if (tenure_node_event_fd(get(), &fd, &err) != TENURE_OK) return Error(err);
    return fd;
  }
  Result<size_t> dispatch(size_t max) {
    size_t done = 0;
    tenure_error err;
    if (tenure_node_dispatch(get(), max, &done, &err) != TENURE_OK) return Error(err);
    return done;
  }
  // The host is alive, for all gates of the node.
  void beat() noexcept { tenure_node_beat(get(), nullptr); }
  Result<void> close(milliseconds timeout) {
    return detail::checked([&](tenure_error* e) { return tenure_node_close(get(), detail::ms(timeout), e); });
  }
  tenure_node get() const noexcept { return handle_.get(); }

 private:
  explicit Node(tenure_node n) noexcept : handle_(n) {}
  static Result<Node> open_with(tenure_config config) {
    tenure_node n;
    tenure_error err;
    if (tenure_node_open(config, &n, &err) != TENURE_OK) return Error(err);
    return Node(n);
  }
  Result<Gate> gate_with(std::string_view name, tenure_config config) {
    tenure_gate g;
    tenure_error err;
    if (tenure_gate_open(get(), detail::bytes(name), config, &g, &err) != TENURE_OK) return Error(err);
    return Gate::adopt(g);
  }
  void end() noexcept {
    if (get().id != 0) tenure_node_close(get(), 1000, nullptr);
  }
  detail::Handle<tenure_node, tenure_node_free> handle_;
};

using LogFunction = std::function<void(tenure_log_level level, std::string_view target, std::string_view message)>;

// Sends the library's log to a function, from now on and for the whole process; an empty one ends it. Not to be called from two threads at once.
inline Result<void> set_log(tenure_log_level level, LogFunction f) {
  // Never destroyed: the library's thread may log while the program's statics are going.
  static auto* current = new std::shared_ptr<LogFunction>();
  auto* next = f ? new std::shared_ptr<LogFunction>(std::make_shared<LogFunction>(std::move(f))) : nullptr;
  const auto call = [](void* user, int32_t lvl, tenure_bytes target, tenure_bytes message) noexcept {
    detail::contained([&] {
      const std::shared_ptr<LogFunction> own = *static_cast<std::shared_ptr<LogFunction>*>(user);
      (*own)(static_cast<tenure_log_level>(lvl), detail::view(target), detail::view(message));
    });
  };
  auto set = detail::checked([&](tenure_error* e) {
    return tenure_log_set(level, next ? static_cast<tenure_log_fn>(call) : nullptr, next, e);
  });
  if (!set) {
    delete next;
    return set;
  }
  delete std::exchange(current, next);
  return set;
}

// As Node::connect.
inline Result<Node> connect(std::string_view addresses, Config::Settings settings = {}) { return Node::connect(addresses, settings); }

}  // namespace tenure

#endif  // TENURE_NODE_HPP
