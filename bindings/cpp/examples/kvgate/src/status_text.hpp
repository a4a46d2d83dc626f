// The library's status is JSON; INFO wants lines.
#pragma once

#include <string>
#include <string_view>

namespace kvgate {

// One "<prefix><name>:<value>" line for each member of a JSON object. true and false become 1 and 0,
// null an empty value; an array of pairs, as for counts by reason, gives one line a pair, and one
// of an object's members its own name behind the array's.
std::string status_lines(std::string_view json, const std::string& prefix);

}  // namespace kvgate
