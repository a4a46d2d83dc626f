#!/bin/bash
# How long nobody is granted a lock when the leader is killed or stopped, beside etcd. See ../cluster/run.sh.
set -euo pipefail
exec "$(dirname "$0")/../cluster/run.sh" failover
