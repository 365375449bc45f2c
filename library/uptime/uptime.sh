#!/bin/sh
# What uptime(1) says; where there is none, the same from proc(5).
if [ -x /usr/bin/uptime ]; then
  exec /usr/bin/uptime
fi
read -r seconds _ </proc/uptime
read -r one five fifteen _ </proc/loadavg
minutes=$((${seconds%.*} / 60))
printf 'up %d days, %d:%02d, load average: %s, %s, %s\n' \
  $((minutes / 1440)) $((minutes / 60 % 24)) $((minutes % 60)) "$one" "$five" "$fifteen"
