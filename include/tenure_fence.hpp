// Epochs at a resource for C++17. Included by tenure.hpp.
#ifndef TENURE_FENCE_HPP
#define TENURE_FENCE_HPP

#include "tenure.hpp"

namespace tenure {

// What becomes of a write that may be done.
struct EpochAdmission {
  // To be stored in the same transaction as the write.
  tenure_epoch_record record;
  // Whether it has to be stored.
  bool raised;
  std::string_view bytes() const noexcept { return {reinterpret_cast<const char*>(record.bytes), sizeof record.bytes}; }
};

// For a resource with transactions of its own: whether a write under `epoch` may be done where `stored` is the record of the epochs before,
// empty when there is none. TENURE_FENCED, with the higher epoch as token(), when it may not.
inline Result<EpochAdmission> admit_epoch(std::string_view stored, uint64_t epoch) {
  EpochAdmission admission{};
  tenure_error err;
  if (tenure_epoch_admit(detail::bytes(stored), epoch, &admission.record, &admission.raised, &err) != TENURE_OK) return Error(err);
  return admission;
}

// The epoch in a stored record; 0 for an empty one.
inline Result<uint64_t> read_epoch(std::string_view stored) {
  uint64_t epoch = 0;
  tenure_error err;
  if (tenure_epoch_read(detail::bytes(stored), &epoch, &err) != TENURE_OK) return Error(err);
  return epoch;
}

// A write that is under way; its end, which is the destructor, lets the first write of a higher epoch begin.
class EpochPass {
 public:
  explicit EpochPass(tenure_epoch_pass p) noexcept : handle_(p) {}

 private:
  detail::Handle<tenure_epoch_pass, tenure_epoch_pass_free> handle_;
};

// For a resource without transactions: the highest epochs in a file.
//
//     auto pass = fence.enter("table", epoch, 10s);
//     if (!pass) return refuse(pass.error());   // TENURE_FENCED: somebody else is in office
//     write();                                   // no higher epoch is let in until the pass is gone
class EpochFence {
 public:
  // Makes the file, once.
  static Result<void> create(std::string_view path) {
    return detail::checked([&](tenure_error* e) { return tenure_epoch_fence_create(detail::bytes(path), e); });
  }
  // Opens the file; none is made in the place of one that is gone.
  static Result<EpochFence> open(std::string_view path) {
    tenure_epoch_fence f;
    tenure_error err;
    if (tenure_epoch_fence_open(detail::bytes(path), &f, &err) != TENURE_OK) return Error(err);
    return EpochFence(f);
  }
  Result<EpochPass> enter(std::string_view resource, uint64_t epoch, milliseconds timeout) {
    tenure_epoch_pass p;
    tenure_error err;
    if (tenure_epoch_fence_enter(get(), detail::bytes(resource), epoch, detail::ms(timeout), &p, &err) != TENURE_OK) return Error(err);
    return EpochPass(p);
  }
  Result<uint64_t> highest(std::string_view resource) const {
    uint64_t epoch = 0;
    tenure_error err;
    if (tenure_epoch_fence_highest(get(), detail::bytes(resource), &epoch, &err) != TENURE_OK) return Error(err);
    return epoch;
  }
  tenure_epoch_fence get() const noexcept { return handle_.get(); }

 private:
  explicit EpochFence(tenure_epoch_fence f) noexcept : handle_(f) {}
  detail::Handle<tenure_epoch_fence, tenure_epoch_fence_free> handle_;
};

}  // namespace tenure

#endif  // TENURE_FENCE_HPP
