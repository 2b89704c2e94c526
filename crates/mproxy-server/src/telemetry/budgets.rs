//! What connections make mproxy hold, read from the budgets when metrics are asked for.

use std::fmt::Error;
use std::sync::Arc;

use mproxy_core::budget::{Budget, Scope};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

/// The budgets of this process. Set once, at the start.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    listeners: Mutex<Vec<(String, Arc<Budget>)>>,
    total: Mutex<Option<Arc<Scope>>>,
}

impl Budgets {
    pub(super) fn registered(registry: &mut Registry) -> Arc<Self> {
        let budgets = Arc::<Self>::default();
        registry.register_collector(Box::new(BudgetCollector(Arc::clone(&budgets))));
        budgets
    }

    pub(super) fn listener(&self, name: &str, budget: &Arc<Budget>) {
        self.listeners.lock().push((name.to_owned(), Arc::clone(budget)));
    }

    pub(super) fn total(&self, total: &Arc<Scope>) {
        *self.total.lock() = Some(Arc::clone(total));
    }
}

/// One row: its scope, its listener (empty: all of them), and the number.
type BudgetRow = (&'static str, String, u64);

#[derive(Debug)]
struct BudgetCollector(Arc<Budgets>);

impl Collector for BudgetCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        // Copies: no lock is held while a page is written.
        let total = self.0.total.lock().clone();
        let listeners = self.0.listeners.lock().clone();
        // By name first: a page has each name once, with all its rows behind it.
        let (mut held, mut most, mut spent): (Vec<BudgetRow>, Vec<BudgetRow>, Vec<BudgetRow>) =
            Default::default();
        let scopes = listeners
            .iter()
            .map(|(name, budget)| ("listener", name.clone(), budget.listener()))
            .chain(total.as_deref().map(|total| ("total", String::new(), total)));
        for (scope, name, of) in scopes {
            held.push((scope, name.clone(), of.held() as u64));
            most.push((scope, name.clone(), of.most() as u64));
            spent.push((scope, name, of.times_spent()));
        }
        for (name, budget) in &listeners {
            most.push(("connection", name.clone(), budget.connection() as u64));
            spent.push(("connection", name.clone(), budget.connections_spent()));
        }
        let mut gauges = |name, help, rows: &[BudgetRow]| {
            let kind = ConstGauge::<i64>::new(0).metric_type();
            let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Bytes), kind)?;
            for (scope, listener, value) in rows {
                let gauge = ConstGauge::<i64>::new(i64::try_from(*value).unwrap_or(i64::MAX));
                gauge.encode(family.encode_family(&[("scope", *scope), ("listener", listener)])?)?;
            }
            Ok::<_, Error>(())
        };
        gauges("budget_used", "Bytes that mproxy holds for connections", &held)?;
        gauges("budget_limit", "Bytes that mproxy may hold for connections", &most)?;
        let kind = ConstCounter::<u64>::new(0).metric_type();
        let help = "Packets and events for which a budget had no room";
        let mut family = encoder.encode_descriptor("budget_exceeded", help, None, kind)?;
        for (scope, listener, value) in &spent {
            let counter = ConstCounter::<u64>::new(*value);
            counter.encode(family.encode_family(&[("scope", *scope), ("listener", listener)])?)?;
        }
        Ok(())
    }
}
