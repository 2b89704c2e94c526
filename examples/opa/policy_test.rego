package mproxy_test

import data.mproxy

access := {
	"refused_users": ["mallory"],
	"grants": {"sensor": {"defaultEffect": "EFFECT_DENY"}},
}

connects(client) := answer if {
	answer := mproxy.AuthConnect with input as {"client": client} with data.access as access
}

test_who_may_come_in if {
	connects({"clientId": "desk", "username": "ann"}) == {"allow": {}}
	connects({"clientId": "desk"}) == {"allow": {}}
	connects({"clientId": "desk", "username": "mallory"}).deny
	connects({"clientId": "a/b", "username": "ann"}).deny.reasonCode == 133
	connects({"clientId": "#", "username": "sensor"}).deny.reasonCode == 133
	connects({"clientId": "s1", "username": "sensor"}).allow.grant.defaultEffect == "EFFECT_DENY"
}

test_where_one_may_publish if {
	mproxy.AuthPublish.deny with input as {"topic": "forbidden/light"}
	mproxy.AuthPublish == {"allow": {}} with input as {"topic": "demo/light"}
	mproxy.AuthPublish.allow.topic == "new/light" with input as {"topic": "old/light"}
}

test_each_filter_has_its_verdict if {
	asked := [{"filter": "demo/#"}, {"filter": "secret/x"}, {"filter": "+/x"}, {"filter": "demo/#"}]
	answer := mproxy.AuthSubscribe with input as {"filters": asked}
	[object.keys(verdict) | some verdict in answer.verdicts] == [{"allow"}, {"deny"}, {"deny"}, {"allow"}]
}
